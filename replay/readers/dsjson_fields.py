"""What a dsjson context says besides its candidates: features to slice by, and the shared text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from replay.readers.dsjson_types import members_decoder

_NOT_SHARED = ("_multi", "_slots")


class SharedFields:
    """Fields of contexts by name: a feature's (``country``), or with its namespace (``Geo.country``)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def read(self, contexts: Sequence[bytes]) -> dict[str, NDArray[Any]]:
        """Columns of strings; empty where a context does not say."""
        found: dict[str, list[str]] = {name: [] for name in self.names}
        for context in contexts:
            members = members_decoder.decode(context) if context else {}
            decoded: dict[str, Any] = {}
            for name, column in found.items():
                column.append(_find(name, members, decoded))
        return {name: np.array(column, np.str_) for name, column in found.items()}


def cut(context: bytes) -> bytes:
    """The context without its candidates and slots: the shared features, as the log has them."""
    if not context:
        return b"{}"
    members = members_decoder.decode(context)
    return msgspec.json.encode({key: value for key, value in members.items() if key not in _NOT_SHARED})


def _find(name: str, members: dict[str, Raw], decoded: dict[str, Any]) -> str:
    space, dot, rest = name.partition(".")
    if dot and space in members:
        return _as_text(_in(_decoded(space, members, decoded), rest))
    if name in members:
        return _as_text(_decoded(name, members, decoded))
    for space in members:
        if not space.startswith("_"):
            value = _in(_decoded(space, members, decoded), name)
            if value is not None:
                return _as_text(value)
    return ""


def _decoded(key: str, members: dict[str, Raw], decoded: dict[str, Any]) -> Any:
    if key not in decoded:
        decoded[key] = msgspec.json.decode(members[key])
    return decoded[key]


def _in(space: Any, name: str) -> Any:
    for part in space if isinstance(space, list) else (space,):
        if isinstance(part, dict):
            if name in part:
                return part[name]
            first, dot, rest = name.partition(".")
            if dot and first in part:
                return _in(part[first], rest)
    return None


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return msgspec.json.encode(value).decode()
