"""Which item a dsjson action is: its name if it has one, else a hash of its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from replay.events import U64, hash_key, item_key

MOST_KEPT: Final = 200_000
"""Actions whose keys are remembered; a catalogue's come again and again."""

_NAMES: Final = ("_tag", "id", "Id", "ID", "_id")


class Identity:
    """Keys of actions, by their text."""

    def __init__(self, path: str | None = None) -> None:
        """
        :param path: of the member that names the item, such as ``id`` or ``i.id``; by default ``_tag``, else ``id``,
            in the action or in one of its namespaces
        """
        self._path = path.split(".") if path else None
        self._known: dict[bytes, int] = {}

    def keys(self, actions: Sequence[bytes]) -> U64:
        """Shape (len(actions),): key of each.

        :raises msgspec.DecodeError: one is no JSON object
        """
        known = self._known
        if len(known) > MOST_KEPT:
            known.clear()
        found = [known.get(action) for action in actions]
        if None in found:
            for i, action in enumerate(actions):
                if found[i] is None:
                    found[i] = known[action] = self.key(action)
        return np.array(found, np.uint64)

    def key(self, action: bytes) -> int:
        """Key of one action.

        >>> Identity().key(b'{"_tag":"7","I":{"age":3}}'), Identity("I.age").key(b'{"I":{"age":3}}')
        (7, 3)
        """
        members = msgspec.json.decode(action)
        if isinstance(members, dict):
            name = self._at_path(members) if self._path else _found(members)
            if name is not None:
                return key_of_name(name)
        return hash_key(action.decode("utf-8", "replace"))

    def _at_path(self, members: Any) -> str | None:
        for part in self._path or ():
            if isinstance(members, list):
                members = next((each for each in members if isinstance(each, dict) and part in each), None)
            if not isinstance(members, dict):
                return None
            members = members.get(part)
        return _name(members)


def key_of_name(name: str) -> int:
    """As `replay.events.item_key`; ``#`` and 16 hexadecimal digits are the key itself: written for items whose names
    are not known."""
    if len(name) == 17 and name[0] == "#":
        try:
            return int(name[1:], 16)
        except ValueError:
            pass
    return item_key(name)


def name_of_key(key: int) -> str:
    """A name that :func:`key_of_name` gives this key for."""
    return str(key) if key < 10**18 else f"#{key:016x}"


def _found(members: dict[str, Any]) -> str | None:
    for key in _NAMES:
        name = _name(members.get(key))
        if name is not None:
            return name
    for within in members.values():
        for part in within if isinstance(within, list) else (within,):
            if isinstance(part, dict):
                for key in _NAMES[1:]:
                    name = _name(part.get(key))
                    if name is not None:
                        return name
    return None


def _name(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and value else None
