"""dsjson that trains under ``vw --dsjson``: CB for logs of one slot, CCB for feeds.

What dsjson has no place for, VW passes over: ``_viewer``, the viewer's key in hexadecimal digits, and ``_replay``, with
what was not seen, columns, fields and numeric contexts. `replay.readers.dsjson` reads both.
"""

from __future__ import annotations

from typing import IO, Any, Final

import msgspec
import numpy as np

from replay.errors import BadLog
from replay.events import Batch, Candidates
from replay.readers.identity import Identity, name_of_key
from replay.readers.service_texts import whole_texts
from replay.readers.stamps import hash_texts, stamps_of

MOST_KEPT: Final = 200_000
OWN_FIELDS: Final = ("model", "event_id", "EventId")
"""Fields that dsjson has places for."""

_encode = msgspec.json.Encoder().encode


class DsjsonWriter:
    """Writes lines to a file that is open for bytes.

    Needs batches with candidates. Without texts an item is the feature ``id``, and numeric contexts are ``x0``, ``x1``
    and so on. Where the log has no more than the shown action's probability, that alone is written down.

    :param feeds: write CCB; also for events of one slot, since VW reads the one or the other
    """

    def __init__(self, file: IO[bytes], *, feeds: bool) -> None:
        self._file = file
        self._feeds = feeds
        self._identity = Identity()
        self._named: dict[tuple[bytes, int], bytes] = {}
        self._made: dict[int, bytes] = {}

    def finish(self) -> None:
        """Nothing is left to do; the file is the caller's."""

    def abandon(self) -> None:
        """Nothing is held."""

    def write(self, batch: Batch) -> None:
        """
        :raises BadLog: candidates or texts that cannot be written
        """
        if batch.candidates is None:
            raise BadLog("dsjson lists what could have been shown, and this log does not say; open it with n_actions")
        if not self._feeds and not batch.single:
            raise BadLog("an event has several slots where all before had one; open the log as one of feeds")
        actions = self._actions(batch)
        shared = self._shared(batch)
        heads = self._heads(batch)
        tails = self._tails(batch)
        body = self._feed if self._feeds else self._single
        lines = []
        for event in range(batch.n):
            lines.append(b"{" + body(batch, event, actions, shared[event], heads[event]) + tails[event] + b"}\n")
        self._file.write(b"".join(lines))

    # ---------------------------------------------------------------- lines

    def _single(self, batch: Batch, slot: int, actions: list[bytes], shared: bytes, head: bytes) -> bytes:
        assert batch.candidates is not None
        first, last = batch.candidates.starts[slot : slot + 2].tolist()
        shown = int(batch.chosen[slot])
        ranked = [shown + 1, *(k + 1 for k in range(last - first) if k != shown)]
        p = _encode(float(batch.propensity[slot]))
        logged = _logged(batch.candidates, slot)
        listed = b"[" + p + b"]" if logged is None else _encode([logged[k - 1] for k in ranked])
        return (
            b'"_label_cost":%s,"_label_probability":%s,"_label_Action":%d,"_labelIndex":%d,%s,"a":%s,"c":%s,"p":%s'
            % (
                _encode(0.0 - float(batch.reward[slot])),
                p,
                shown + 1,
                shown,
                head,
                _encode(ranked),
                _context(shared, actions[first:last], b""),
                listed,
            )
        )

    def _feed(self, batch: Batch, event: int, actions: list[bytes], shared: bytes, head: bytes) -> bytes:
        assert batch.candidates is not None
        numbers: dict[tuple[int, int], int] = {}
        multi: list[bytes] = []
        slots, outcomes = [], []
        gone: set[int] = set()
        for k, slot in enumerate(range(int(batch.starts[event]), int(batch.starts[event + 1]))):
            first, last = batch.candidates.starts[slot : slot + 2].tolist()
            could = self._numbers(batch.candidates.item[first:last].tolist(), actions[first:last], numbers, multi)
            shown = could[int(batch.chosen[slot])]
            if shown in gone:
                raise BadLog(
                    f"event {int(batch.place[event])} shows an item in two slots, which dsjson has no place for; "
                    "convert it to Parquet"
                )
            slots.append((k, could, frozenset(gone)))
            gone.add(shown)
            logged = _logged(batch.candidates, slot)
            ranked, p = [shown], [float(batch.propensity[slot])]
            if logged is not None:
                others = [k for k in range(len(could)) if k != int(batch.chosen[slot])]
                ranked += [could[k] for k in others]
                p += [logged[k] for k in others]
            outcomes.append(
                {
                    "_label_cost": 0.0 - float(batch.reward[slot]),
                    "_id": str(k),
                    "_a": ranked,
                    "_p": p,
                    "_o": [],
                }
            )
        every = set(range(len(multi)))
        listed = [
            {"_id": str(k)} if set(could) == every - above else {"_id": str(k), "_inc": could}
            for k, could, above in slots
        ]
        return b'%s,"c":%s,"_outcomes":%s' % (head, _context(shared, multi, _encode(listed)), _encode(outcomes))

    def _numbers(
        self, keys: list[int], actions: list[bytes], numbers: dict[tuple[int, int], int], multi: list[bytes]
    ) -> list[int]:
        """Places in ``_multi`` of a slot's candidates, which is made longer by those that are new."""
        found = []
        times: dict[int, int] = {}
        for key, action in zip(keys, actions, strict=True):
            times[key] = times.get(key, -1) + 1
            number = numbers.setdefault((key, times[key]), len(multi))
            if number == len(multi):
                multi.append(action)
            found.append(number)
        return found

    # ---------------------------------------------------------------- parts

    def _actions(self, batch: Batch) -> list[bytes]:
        """Texts of all candidates, each so that its item can be read from it."""
        assert batch.candidates is not None
        keys = batch.candidates.item.tolist()
        if len(self._made) > MOST_KEPT:
            self._made.clear()
        if len(self._named) > MOST_KEPT:
            self._named.clear()
        if batch.texts is None:
            return [self._made.get(key) or self._make(key) for key in keys]
        pairs = zip(whole_texts(batch), keys, strict=True)
        return [self._named.get(pair) or self._name(*pair) for pair in pairs]

    def _make(self, key: int) -> bytes:
        name = name_of_key(key)
        self._made[key] = text = _encode({"_tag": name, "I": {"id": name}})
        return text

    def _name(self, text: bytes, key: int) -> bytes:
        members = _object(text)
        line = text if b"\n" not in text and b"\r" not in text else _encode(members)
        if self._identity.key(line) != key:
            line = _encode({"_tag": name_of_key(key), **{k: v for k, v in members.items() if k != "_tag"}})
        self._named[text, key] = line
        return line

    def _shared(self, batch: Batch) -> list[bytes]:
        if batch.texts is not None:
            return [_plain(text) for text in batch.texts.shared]
        if batch.contexts is not None:
            names = [f"x{k}" for k in range(batch.contexts.shape[1])]
            return [_encode({"C": dict(zip(names, row, strict=True))}) for row in batch.contexts.tolist()]
        return [b"{}"] * batch.n

    def _heads(self, batch: Batch) -> list[bytes]:
        ids = batch.fields.get("EventId")
        names = [str(place) for place in batch.place.tolist()] if ids is None else ids.tolist()
        own = hash_texts(names)
        return [
            (b'"Timestamp":%s,' % _encode(stamp) if stamp else b"")
            + b'"Version":"1","EventId":'
            + _encode(name)
            + (b"" if viewer == of_id and name else b',"_viewer":"%016x"' % viewer)
            for stamp, name, viewer, of_id in zip(
                stamps_of(batch.time), names, batch.viewer.tolist(), own.tolist(), strict=True
            )
        ]

    def _tails(self, batch: Batch) -> list[bytes]:
        models = batch.fields.get("model")
        fields = {name: column.tolist() for name, column in batch.fields.items() if name not in OWN_FIELDS}
        contexts = None if batch.contexts is None else batch.contexts.tolist()
        tails = []
        for event in range(batch.n):
            slots = slice(int(batch.starts[event]), int(batch.starts[event + 1]))
            extra: dict[str, Any] = {}
            if batch.seen is not None and not batch.seen[slots].all():
                extra["seen"] = batch.seen[slots].tolist()
            if batch.columns:
                extra["columns"] = {name: _no_nan(column[slots]) for name, column in batch.columns.items()}
            if fields:
                extra["fields"] = {name: column[event] for name, column in fields.items()}
            if contexts is not None:
                extra["contexts"] = contexts[event]
            tail = b""
            if models is not None and models[event] != "":
                tail += b',"VWState":' + _encode({"m": str(models[event])})
            tails.append(tail + (b',"_replay":' + _encode(extra) if extra else b""))
        return tails


def _logged(candidates: Candidates, slot: int) -> list[float] | None:
    """Probability of each of a slot's candidates, if the log has them."""
    if candidates.logged is None:
        return None
    every: list[float] = candidates.logged[candidates.starts[slot] : candidates.starts[slot + 1]].tolist()
    return None if any(np.isnan(every)) else every


def _context(shared: bytes, actions: list[bytes], slots: bytes) -> bytes:
    """The shared text with candidates, and slots if there are any, as its last members."""
    return b'%s%s"_multi":[%s]%s}' % (
        shared[:-1],
        b"" if shared == b"{}" else b",",
        b",".join(actions),
        b',"_slots":' + slots if slots else b"",
    )


def _plain(text: bytes) -> bytes:
    """An object's text without line breaks or blanks around it."""
    if text[:1] == b"{" and text[-1:] == b"}" and b"\n" not in text and b"\r" not in text and text[1:2] not in b" \t}":
        return text
    return _encode(_object(text))


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadLog(f"a text is no JSON ({error}): {text[:80].decode('utf-8', 'replace')}") from None
    if not isinstance(found, dict):
        raise BadLog(f"a text is no JSON object: {text[:80].decode('utf-8', 'replace')}")
    return found


def _no_nan(column: Any) -> list[float | None]:
    return [None if np.isnan(value) else value for value in column.tolist()]
