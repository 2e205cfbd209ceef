"""Parquet: files with the same columns, a row a slot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from replay.errors import BadLog
from replay.events import F64, I64, Batch, Candidates, Needs, Texts, slot_numbers
from replay.readers.common import WHAT_TO_LOG, OnBroken, Reading, checked_propensity, dense, own_keys
from replay.readers.parquet_rows import look, rows_of
from replay.readers.ragged import starts_of, taken
from replay.readers.tables import bytes_of, changes, floats, keys_of, seconds, values_of, wholes

ROLES: Final[dict[str, tuple[str, ...]]] = {
    "reward": ("reward", "click", "r"),
    "propensity": ("propensity", "pscore", "propensity_score", "probability", "p"),
    "action": ("action", "chosen"),
    "item": ("item", "item_id"),
    "n_actions": ("n_actions", "n_candidates"),
    "viewer": ("viewer", "viewer_id", "user", "user_id"),
    "time": ("time", "timestamp"),
    "event": ("event_id", "event", "decision_id"),
    "slot": ("slot", "position"),
    "seen": ("seen",),
    "candidates": ("candidates",),
    "logged": ("candidate_propensities",),
    "shared": ("shared_text",),
    "texts": ("candidate_texts",),
    "contexts": ("context", "contexts"),
}
"""What columns are taken for if ``names`` does not say: the first of these that there is."""


class ParquetLog(Reading):
    """Parquet, streamed: only the columns that are needed, some rows at a time.

    Columns are found by their names, see ``ROLES``; ``names`` says otherwise: ``{"reward": "watched"}``. Needed are
    reward, propensity, and an action (a whole number from 0) or an item (any id; with ``n_actions``, whole numbers
    below it are actions too). Feeds have an event column; their slots are consecutive rows, from the top. All other
    columns can be asked for, as fields or as columns of numbers.

    :param n_actions: how many could have been shown, if no column says so
    """

    kind = "parquet"

    def __init__(
        self,
        files: Sequence[Path],
        *,
        name: str | None = None,
        on_broken: OnBroken = "skip",
        names: Mapping[str, str] | None = None,
        n_actions: int | None = None,
        reward_range: tuple[float, float] | None = None,
        marginals: bool = False,
    ) -> None:
        """
        :param files: in the order in which they are read
        :param name: of the log, for messages; that of the first file if not given
        :raises BadLog: no Parquet, a needed column is not there, or an option is not known
        """
        super().__init__(name or str(files[0]), on_broken=on_broken, reward_range=reward_range, marginals=marginals)
        if n_actions is not None and n_actions < 1:
            raise BadLog(f"n_actions={n_actions} is not allowed; at least 1 is")
        self._n_actions = n_actions
        self._schema, self._size, self._stretches = look(files)
        self._mine = range(len(self._stretches))
        self._roles = self._find(dict(names or {}))
        if self._size == 0:
            raise BadLog(f"{self.name} has no rows")

    def parts(self) -> Sequence[ParquetLog]:
        """By file; small files together, large ones cut between row groups. Rows are numbered over all of them."""
        return [self._part(k) for k in self._mine]

    def _part(self, which: int) -> ParquetLog:
        part = copy(self)
        part._mine = range(which, which + 1)
        part._size = sum(piece.rows for piece in self._stretches[which])
        return part

    def knows_candidates(self) -> bool:
        """By a column, or as given."""
        return self._n_actions is not None or bool({"n_actions", "candidates"} & self._roles.keys())

    def is_of_feeds(self) -> bool:
        """It has a column with the event."""
        return "event" in self._roles

    def field_names(self) -> tuple[str, ...]:
        """All columns that have no other part."""
        return tuple(name for name in self._schema.names if name not in self._roles.values())

    def column_names(self) -> tuple[str, ...]:
        """Those of them that hold floats."""
        return tuple(name for name in self.field_names() if pa.types.is_floating(self._schema.field(name).type))

    # ---------------------------------------------------------------- what there is

    def _find(self, names: dict[str, str]) -> dict[str, str]:
        have = ", ".join(self._schema.names) or "none"
        for role, name in names.items():
            if role not in ROLES:
                raise BadLog(f"{self.name}: names={{{role!r}: ...}} is not known; allowed are {', '.join(ROLES)}")
            if name not in self._schema.names:
                raise BadLog(f"{self.name} has no column {name!r}; it has: {have}")
        roles = dict(names)
        for role, usual in ROLES.items():
            if role not in roles:
                for name in usual:
                    if name in self._schema.names and name not in roles.values() and self._fits(role, name):
                        roles[role] = name
                        break
        if "event" not in roles:
            roles.pop("slot", None)
        if "propensity" not in roles:
            raise BadLog(
                f"{self.name} has no propensity; it has the columns {have}. Name it with "
                f"names={{'propensity': ...}} if it is one of them, else {WHAT_TO_LOG}"
            )
        if "reward" not in roles or not {"action", "item"} & roles.keys():
            missing = "reward" if "reward" not in roles else "action or item"
            raise BadLog(
                f"{self.name} has no {missing}; it has the columns {have}. Name it with "
                f"names={{{missing.split()[0]!r}: ...}}"
            )
        return roles

    def _fits(self, role: str, name: str) -> bool:
        kind = self._schema.field(name).type
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return bool(listed) == (role in ("candidates", "logged", "texts", "contexts"))

    # ---------------------------------------------------------------- reading

    def batches(self, needs: Needs) -> Iterator[Batch]:
        """The rows in order, whole events at a time.

        :raises BadLog: a propensity is missing or impossible; a row is broken where that is fatal; the candidates are
            wanted and unknown
        """
        self._begin()
        listed = needs.candidates or needs.texts
        if listed and not self.knows_candidates():
            raise BadLog(f"{self.name}: it is not known what could have been shown; give n_actions, or log candidates")
        wanted = self._wanted(needs)
        event = self._roles.get("event")
        for which in self._mine:
            for first, table in rows_of(self._stretches, which, wanted, event):
                batch = self._batch(table, first, needs)
                self._done = min(self._done + table.num_rows, self._size)
                if batch is not None:
                    yield batch

    def _wanted(self, needs: Needs) -> list[str]:
        roles = set(ROLES) - {"slot"}
        if not (needs.candidates or needs.texts):
            roles -= {"candidates"}
            if "action" not in self._roles and "candidates" in self._roles:
                roles.add("candidates")
        if not needs.texts:
            roles -= {"shared", "texts"}
        if not needs.logged:
            roles -= {"logged"}
        names = {self._roles[role] for role in roles if role in self._roles}
        names |= {name for name in (*needs.fields, *needs.columns) if name in self._schema.names}
        return [name for name in self._schema.names if name in names]

    def _batch(self, table: pa.Table, first: int, needs: Needs) -> Batch | None:
        n_rows = table.num_rows
        row = np.arange(first, first + n_rows)

        def column(role: str) -> Any:
            return table[self._roles[role]] if role in self._roles else None

        where = f"{self.name}, column"
        propensity = checked_propensity(
            self.name, "row", row, floats(column("propensity"), f"{where} {self._roles['propensity']}")
        )
        reward = floats(column("reward"), f"{where} {self._roles['reward']}")
        candidates = self._listed(table)
        counts, bad_counts = self._counts(table, candidates, where)
        item, chosen, bad = self._shown(table, candidates, counts, where)
        bad |= bad_counts | ~np.isfinite(reward)
        starts = (
            np.arange(n_rows + 1)
            if "event" not in self._roles
            else np.append(np.flatnonzero(changes(column("event"))), n_rows)
        )
        tops = starts[:-1]
        place = row[tops]
        viewer = own_keys(place) if "viewer" not in self._roles else keys_of(column("viewer"), tops, own_keys(place))
        fields = {name: values_of(table[name])[tops] for name in needs.fields if name in table.column_names}
        batch = Batch(
            starts=starts,
            item=item,
            chosen=chosen,
            propensity=propensity,
            reward=reward,
            n_candidates=counts,
            viewer=viewer,
            time=np.full(len(tops), np.nan) if "time" not in self._roles else seconds(column("time"))[tops],
            place=place,
            seen=None
            if "seen" not in self._roles
            else (np.nan_to_num(floats(column("seen"), where)) != 0).astype(np.uint8),
            fields=fields,
            columns={
                name: floats(table[name], f"{where} {name}") for name in needs.columns if name in table.column_names
            },
            candidates=self._candidates(table, candidates, counts) if needs.candidates or needs.texts else None,
            texts=self._texts(table, tops, counts) if needs.texts else None,
            contexts=self._contexts(table, tops),
        )
        return self._sound(batch, bad)

    def _listed(self, table: pa.Table) -> Candidates | None:
        """Of the column with lists of candidates, if there is one and it was read."""
        name = self._roles.get("candidates")
        if name is None or name not in table.column_names:
            return None
        lists = table[name].combine_chunks()
        counts = np.nan_to_num(np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), np.float64))
        flat = lists.flatten()
        return Candidates(starts_of(counts.astype(np.int64)), keys_of(pa.chunked_array([flat]), None, None))

    def _counts(self, table: pa.Table, candidates: Candidates | None, where: str) -> tuple[I64, Any]:
        n = table.num_rows
        if candidates is not None:
            counts = np.diff(candidates.starts)
            return counts, counts < 1
        if "n_actions" in self._roles:
            name = self._roles["n_actions"]
            counts, bad = wholes(table[name], f"{where} {name}")
            return counts, bad | (counts < 0)
        return np.full(n, self._n_actions or 0, np.int64), np.zeros(n, bool)

    def _shown(self, table: pa.Table, candidates: Candidates | None, counts: I64, where: str) -> Any:
        """(item, chosen, which are broken)."""
        item = None
        if "item" in self._roles:
            item = keys_of(table[self._roles["item"]], None, None)
        if "action" in self._roles:
            name = self._roles["action"]
            chosen, bad = wholes(table[name], f"{where} {name}")
            bad = bad | (chosen < 0) | ((counts > 0) & (chosen >= counts))
            chosen = np.where(bad, 0, chosen)
            return chosen.astype(np.uint64) if item is None else item, chosen, bad
        assert item is not None
        null = np.asarray(table[self._roles["item"]].is_null().to_numpy(zero_copy_only=False), bool)
        if candidates is not None:
            slot = np.repeat(np.arange(len(counts)), counts)
            match = np.flatnonzero(candidates.item == item[slot])
            chosen = np.full(len(counts), -1)
            chosen[slot[match]] = slot_numbers(candidates.starts)[match]
            return item, np.maximum(chosen, 0), null | (chosen < 0)
        whole = pa.types.is_integer(self._schema.field(self._roles["item"]).type)
        if whole and self.knows_candidates():
            bad = null | (item >= counts.astype(np.uint64))
            return item, np.where(bad, 0, item).astype(np.int64), bad
        return item, np.full(len(counts), -1), null

    def _candidates(self, table: pa.Table, listed: Candidates | None, counts: I64) -> Candidates:
        most = int(counts.max(initial=0))
        if listed is not None:
            found = listed
        elif (counts == most).all():
            found = Candidates(*dense(len(counts), most))
        else:
            starts = starts_of(counts)
            found = Candidates(starts, slot_numbers(starts).astype(np.uint64))
        return found._replace(logged=self._logged(table, counts))

    def _logged(self, table: pa.Table, counts: I64) -> F64 | None:
        name = self._roles.get("logged")
        if name is None or name not in table.column_names:
            return None
        lists = table[name].combine_chunks()
        lengths = np.asarray(lists.value_lengths().fill_null(0))
        if not np.isin(lengths[lengths != counts], (0,)).all():
            raise BadLog(f"{self.name}: column {name} does not have one probability for each candidate")
        logged = np.full(int(counts.sum()), np.nan)
        found = floats(pa.chunked_array([lists.flatten()]), f"{self.name}, column {name}")
        logged[np.repeat(lengths == counts, counts)] = found
        return logged

    def _texts(self, table: pa.Table, tops: I64, counts: I64) -> Texts | None:
        if not {"shared", "texts"} <= self._roles.keys():
            return None
        lists = table[self._roles["texts"]].combine_chunks()
        texts = bytes_of(pa.chunked_array([lists.flatten()]))
        if len(texts) != int(counts.sum()):
            raise BadLog(f"{self.name}: column {self._roles['texts']} does not have one text for each candidate")
        return Texts(bytes_of(table[self._roles["shared"]].take(pa.array(tops))), texts)

    def _contexts(self, table: pa.Table, tops: I64) -> Any:
        name = self._roles.get("contexts")
        if name is None or name not in table.column_names:
            return None
        lists = table[name].combine_chunks().take(pa.array(tops))
        lengths = np.unique(np.asarray(lists.value_lengths().fill_null(-1)))
        if len(lengths) != 1 or lengths[0] < 1:
            raise BadLog(f"{self.name}: column {name} has lists of {lengths.tolist()} numbers; equally many are needed")
        return floats(pa.chunked_array([lists.flatten()]), f"{self.name}, column {name}").reshape(len(tops), -1)

    def _seen(self, column: Any, where: str) -> Any:
        if column is None:
            return None
        return (np.nan_to_num(floats(column, f"{where} {self._roles['seen']}")) != 0).astype(np.uint8)

    def _sound(self, batch: Batch, bad: Any) -> Batch | None:
        """Without the events that have a broken slot."""
        if not bad.any():
            return batch
        events = np.flatnonzero(np.add.reduceat(bad, batch.starts[:-1]) > 0)
        for event in events.tolist():
            reward = batch.reward[batch.starts[event] : batch.starts[event + 1]]
            if np.isfinite(reward).all():
                reason = "action or item is missing, or not among the candidates"
            else:
                reason = "the reward is missing or not finite"
            self._tally.broken(f"row {batch.place[event]}", reason)
        keep = np.setdiff1d(np.arange(batch.n), events)
        return taken(batch, keep) if len(keep) else None
