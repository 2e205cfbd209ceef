"""Decoded dsjson lines to batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from replay.events import F64, I64, U8, U64, Batch, Candidates, Needs, Texts, hash_key
from replay.readers.common import Tally, checked_propensity, own_keys
from replay.readers.dsjson_fields import SharedFields, cut
from replay.readers.dsjson_labels import Labels, Options, chosen_of, logged_of
from replay.readers.dsjson_outcomes import Found, all_of
from replay.readers.dsjson_slots import FeedPart, Slots, slots_of
from replay.readers.dsjson_types import Context, Line
from replay.readers.identity import Identity
from replay.readers.ragged import joined, starts_of, taken
from replay.readers.stamps import hash_texts, seconds_of

SKIPPED: Final = "not activated (_skipLearn): never shown"
THINNED: Final = "left out so that all decisions had the same chance of being in the log (pdrop)"
SLATES: Final = "slates (one reward for all slots), which are not read"

OF_LINES: Final[dict[str, Callable[[Line], str]]] = {
    "model": lambda line: (line.state.m if line.state is not None else "") or "",
    "event_id": lambda line: line.event or "",
    "EventId": lambda line: line.event or "",
}
"""Fields that a line has beside its context."""

_NO_CONTEXT: Final = Context()


class Rows(NamedTuple):
    """Lines with their numbers, and with their contexts, whole, if these are asked for."""

    lines: list[Line]
    places: list[int]
    wholes: list[bytes] | None

    def take(self, which: Sequence[int]) -> Rows:
        """Only these."""
        return Rows(
            [self.lines[i] for i in which],
            [self.places[i] for i in which],
            None if self.wholes is None else [self.wholes[i] for i in which],
        )


class Assembler:
    """Batches from lines, for one reading of a log."""

    def __init__(
        self,
        name: str,
        options: Options,
        needs: Needs,
        *,
        found: Found,
        identity: Identity,
        tally: Tally,
        written_fields: tuple[str, ...],
        lines_before: int = 0,
    ) -> None:
        """
        :param written_fields: those that ``convert`` wrote down
        :param lines_before: in the files before this one; places count on from there, messages do not
        """
        self._before = lines_before
        self._name = name
        self._options = options
        self._needs = needs
        self._listed = needs.candidates or needs.texts
        self._found = found
        self._identity = identity
        self._tally = tally
        self._written = tuple(field for field in needs.fields if field in written_fields)
        shared = [field for field in needs.fields if field not in OF_LINES and field not in written_fields]
        self._shared = SharedFields((*shared, *([options.viewer] if options.viewer is not None else ())))
        self.labels = Labels(options, found, tally)
        self.wants_wholes = needs.texts or bool(self._shared.names)
        """Rows must have whole contexts."""

    def batch(self, rows: Rows) -> Batch | None:
        """Of the decisions among the lines, in their order; None if there is none.

        :raises msgspec.DecodeError: a feature or name cannot be read, which is found only where it is asked for
        """
        skipped = [bool(line.skip or line.deferred) for line in rows.lines]
        feeds = [line.outcomes is not None for line in rows.lines]
        if any(skipped) or any(feeds):
            self._tally.note(SKIPPED, sum(skipped))
            kinds = list(zip(skipped, feeds, strict=True))
            single = self._singles(rows.take([i for i, kind in enumerate(kinds) if kind == (False, False)]))
            several = self._feeds(rows.take([i for i, kind in enumerate(kinds) if kind == (False, True)]))
            if single is None or several is None:
                return several if single is None else single
            both = joined([single, several])
            return taken(both, np.argsort(both.place, kind="stable"))
        return self._singles(rows)

    # ---------------------------------------------------------------- one slot

    def _singles(self, rows: Rows) -> Batch | None:
        chosen = [chosen_of(line) for line in rows.lines]
        counts = [len((line.c or _NO_CONTEXT).multi) for line in rows.lines]
        in_order = all(0 <= k < n for k, n in zip(chosen, counts, strict=True))
        if not in_order or any(line.pdrop for line in rows.lines):
            check = zip(rows.lines, rows.places, chosen, counts, strict=True)
            keep = [i for i, each in enumerate(check) if self.labels.sound(*each)]
            rows, chosen, counts = rows.take(keep), [chosen[i] for i in keep], [counts[i] for i in keep]
        reward, fine = self.labels.rewards(rows.lines, rows.places)
        if not fine.all():
            keep = np.flatnonzero(fine).tolist()
            rows, chosen, counts = rows.take(keep), [chosen[i] for i in keep], [counts[i] for i in keep]
            reward = reward[fine]
        if not rows.lines:
            return None
        place = np.array(rows.places, np.int64)
        propensity = checked_propensity(
            self._name, "line", place, self.labels.propensities(rows.lines, rows.places, chosen)
        )
        which = np.array(chosen, np.int64)
        n_candidates = np.array(counts, np.int64)
        multis = [(line.c or _NO_CONTEXT).multi for line in rows.lines]
        candidates, actions = None, None
        if self._listed:
            actions = [bytes(action) for multi in multis for action in multi]
            starts = starts_of(n_candidates)
            candidates = Candidates(
                starts,
                self._identity.keys(actions),
                logged_of(rows.lines, n_candidates) if self._needs.logged else None,
            )
            item = candidates.item[starts[:-1] + which]
        else:
            item = self._identity.keys([bytes(multi[k]) for multi, k in zip(multis, chosen, strict=True)])
        ones = np.ones(len(rows.lines), np.int64)
        slots = Slots(ones, item, which, propensity, reward, n_candidates, candidates, actions)
        return self._batch(rows, place + self._before, slots)

    # ---------------------------------------------------------------- several slots

    def _feeds(self, rows: Rows) -> Batch | None:
        kept: list[int] = []
        parts: list[FeedPart] = []
        reward: list[float] = []
        for i, (line, place) in enumerate(zip(rows.lines, rows.places, strict=True)):
            if line.cost is not None and all(slot.cost is None for slot in line.outcomes or ()):
                self._tally.note(SLATES)
                continue
            if line.pdrop and not self.labels.sound(line, place, 0, 1):
                continue
            try:
                part = slots_of(line, line.c or _NO_CONTEXT, self._options.outcomes, with_features=self._needs.texts)
            except ValueError as error:
                self._tally.broken(f"line {place}", "bad outcomes", str(error))
                continue
            for labelled, names, values in zip(part.labelled, part.names, part.values, strict=True):
                beside = all_of(self._found, line.event, names)
                self.labels.took(line, beside)
                reward.append(self.labels.reward(labelled, values, beside))
            kept.append(i)
            parts.append(part)
        if not kept:
            return None
        rows = rows.take(kept)
        place_of = np.array(rows.places, np.int64)
        counts = np.array([len(part.chosen) for part in parts], np.int64)
        n_candidates = np.array([len(slot) for part in parts for slot in part.plain], np.int64)
        chosen = np.array([k for part in parts for k in part.chosen], np.int64)
        starts = starts_of(n_candidates)
        keys = self._identity.keys([action for part in parts for slot in part.plain for action in slot])
        p = np.array([p for part in parts for p in part.p], np.float64)
        logged = np.array([p for part in parts for slot in part.logged for p in slot], np.float64)
        slots = Slots(
            counts=counts,
            item=keys[starts[:-1] + chosen],
            chosen=chosen,
            propensity=checked_propensity(self._name, "line", np.repeat(place_of, counts), p),
            reward=np.array(reward, np.float64),
            n_candidates=n_candidates,
            candidates=Candidates(starts, keys, logged if self._needs.logged else None) if self._listed else None,
            actions=[action for part in parts for slot in part.actions for action in slot],
        )
        return self._batch(rows, place_of + self._before, slots)

    # ---------------------------------------------------------------- both

    def _batch(self, rows: Rows, place: I64, slots: Slots) -> Batch | None:
        lines = rows.lines
        events = self._events(lines, place)
        shared = self._shared.read(rows.wholes or []) if self._shared.names else {}
        fields: dict[str, Any] = {}
        for name in self._needs.fields:
            if name in self._written:
                fields[name] = np.array([_text(line.extra.fields.get(name) if line.extra else None) for line in lines])
            elif name in OF_LINES:
                fields[name] = np.array([OF_LINES[name](line) for line in lines])
            else:
                fields[name] = shared[name]
        texts = None
        if self._needs.texts:
            texts = Texts([cut(whole) for whole in rows.wholes or []], slots.actions or [])
        batch = Batch(
            starts=starts_of(slots.counts),
            item=slots.item,
            chosen=slots.chosen,
            propensity=slots.propensity,
            reward=slots.reward,
            n_candidates=slots.n_candidates,
            viewer=self._viewers(lines, events, shared),
            time=seconds_of([line.stamp for line in lines]),
            place=place,
            seen=_seen(lines, slots.counts),
            fields=fields,
            columns={name: _column(lines, name, slots.counts) for name in self._needs.columns},
            candidates=slots.candidates,
            texts=texts,
            contexts=_contexts(lines),
        )
        return self._thinned(batch, lines, events)

    def _events(self, lines: Sequence[Line], place: I64) -> U64:
        """A key of each event: of its id, or of its place where it has none."""
        ids = [line.event or "" for line in lines]
        keys = hash_texts(ids)
        return keys if all(ids) else np.where([not each for each in ids], own_keys(place), keys)

    def _viewers(self, lines: Sequence[Line], events: U64, shared: dict[str, Any]) -> U64:
        keys = events
        if self._options.viewer is not None:
            ids = shared[self._options.viewer].tolist()
            keys = np.array([hash_key(v) if v else e for v, e in zip(ids, keys.tolist(), strict=True)], np.uint64)
        if any(line.viewer is not None for line in lines):
            keys = np.array([_hex(line.viewer, e) for line, e in zip(lines, keys.tolist(), strict=True)], np.uint64)
        return keys

    def _thinned(self, batch: Batch, lines: Sequence[Line], events: U64) -> Batch | None:
        """Without as many of the decisions as makes their chance of being in the log the same for all."""
        largest = self._found.largest_pdrop
        if self._options.pdrop != "thin" or not largest:
            return batch
        kept = np.array([1.0 - (line.pdrop or 0.0) for line in lines])
        draw = (events ^ np.uint64(0x7468696E)) * np.uint64(0x9E3779B97F4A7C15)
        uniform = (draw >> np.uint64(11)).astype(np.float64) / 2**53
        keep = np.flatnonzero(uniform < (1.0 - largest) / kept)
        self._tally.note(THINNED, batch.n - len(keep))
        if len(keep) == batch.n:
            return batch
        return taken(batch, keep) if len(keep) else None


def _hex(text: str | None, otherwise: int) -> int:
    if not text:
        return otherwise
    try:
        return int(text, 16) & (1 << 64) - 1
    except ValueError:
        return hash_key(text)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _seen(lines: Sequence[Line], counts: I64) -> U8 | None:
    """None if no line says."""
    if all(line.extra is None or line.extra.seen is None for line in lines):
        return None
    seen = np.ones(int(counts.sum()), np.uint8)
    starts = starts_of(counts)
    for i, line in enumerate(lines):
        if line.extra is not None and line.extra.seen and len(line.extra.seen) == counts[i]:
            seen[starts[i] : starts[i + 1]] = [int(bool(each)) for each in line.extra.seen]
    return seen


def _column(lines: Sequence[Line], name: str, counts: I64) -> F64:
    """NaN where a line does not say."""
    if name == "pdrop":
        return np.repeat(np.array([line.pdrop or 0.0 for line in lines]), counts)
    column = np.full(int(counts.sum()), np.nan)
    starts = starts_of(counts)
    for i, line in enumerate(lines):
        values = line.extra.columns.get(name) if line.extra is not None else None
        if values is not None and len(values) == counts[i]:
            column[starts[i] : starts[i + 1]] = [np.nan if value is None else value for value in values]
    return column


def _contexts(lines: Sequence[Line]) -> F64 | None:
    """Numeric contexts, if all of the lines have them, equally many."""
    rows = [line.extra.contexts if line.extra is not None else None for line in lines]
    first = rows[0]
    if first is None or any(row is None or len(row) != len(first) for row in rows):
        return None
    return np.array(rows, np.float64)
