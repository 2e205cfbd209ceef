"""Bytes by name that need not fit into memory: a file of its own that nobody else sees, gone with its owner."""

from __future__ import annotations

import tempfile
from typing import IO, Final

#: A file of which more than half is void is written anew, from this size on.
WORTH_IT: Final = 64 << 20


class Spill:
    """The last value of each name; some 100 bytes of memory for each."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._place_of: dict[str, tuple[int, int]] = {}
        self._end = self._void = 0

    def put(self, name: str, value: bytes) -> None:
        """Keep this value, and none that was kept before."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="replay-")  # noqa: SIM115 (it lives as long as this does)
        self._void += self._place_of.get(name, (0, 0))[1]
        self._file.seek(self._end)
        self._file.write(value)
        self._place_of[name] = self._end, len(value)
        self._end += len(value)
        if self._end > WORTH_IT and 2 * self._void > self._end:
            self._write_anew()

    def get(self, name: str) -> bytes | None:
        """What was kept; None if nothing was."""
        place = self._place_of.get(name)
        if place is None or self._file is None:
            return None
        self._file.seek(place[0])
        return self._file.read(place[1])

    def close(self) -> None:
        """Give the room back; nothing is kept any more."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._place_of, self._end, self._void = {}, 0, 0

    def _write_anew(self) -> None:
        old, places = self._file, self._place_of
        assert old is not None
        self._file, self._place_of, self._end, self._void = None, {}, 0, 0
        for name, (begin, size) in places.items():
            old.seek(begin)
            self.put(name, old.read(size))
        old.close()
