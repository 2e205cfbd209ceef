"""Blocks of whole lines from a file: plain, gzip or Zstandard, told apart by their first bytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import zstandard

from replay.errors import BadLog

READ: Final = 1 << 16
BLOCK: Final = 1 << 21
"""Bytes of lines that are handed on at a time, about; more where a line is longer."""

LONGEST: Final = 1 << 26
"""A line longer than this is no event: it would fill the memory before it could be refused."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BOM: Final = b"\xef\xbb\xbf"


class CutShort(Exception):
    """Compressed data that ends early or is damaged: what came before it has been given."""


def blocks(path: Path, passed: Callable[[int], None]) -> Iterator[bytes]:
    """Whole lines of a file, about ``BLOCK`` bytes at a time; the last may lack its newline.

    :param passed: told how many bytes of the file have been read
    :raises BadLog: the file cannot be read, or a line is beyond all measure
    :raises CutShort: after all that could be decompressed has been given
    """
    kept: list[bytes] = []
    held = 0
    first = True
    cut: CutShort | None = None
    parts = _parts(path, passed)
    while True:
        try:
            part = next(parts, None)
        except CutShort as error:
            part, cut = None, error
        if part is None:
            break
        if first and part:
            part, first = part.removeprefix(_BOM), False
        kept.append(part)
        held += len(part)
        if held < BLOCK:
            continue
        whole = b"".join(kept)
        end = whole.rfind(b"\n") + 1
        if not end and held > LONGEST:
            raise BadLog(f"{path} has a line of more than {LONGEST:,} bytes; one event a line is expected")
        if end:
            yield whole[:end]
        kept, held = [whole[end:]], len(whole) - end
    rest = b"".join(kept)
    if rest:
        yield rest
    if cut is not None:
        raise cut


def _parts(path: Path, passed: Callable[[int], None]) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            open_one = _gzip if head.startswith(_GZIP) else _zstd if head == _ZSTD else None
            decompressor: Any = None
            data = b""
            while data or (data := file.read(READ)):
                passed(file.tell() - len(data))
                if open_one is None:
                    yield data
                    data = b""
                    continue
                if decompressor is None:
                    decompressor = open_one()
                try:
                    part = decompressor.decompress(data)
                except (zlib.error, zstandard.ZstdError) as error:
                    raise CutShort(f"compressed data is damaged ({error})") from None
                # What follows a finished member is the next one: logs are appended so. Zeros are padding.
                data = decompressor.unused_data.lstrip(b"\0") if decompressor.eof else b""
                if decompressor.eof:
                    decompressor = None
                if part:
                    yield part
            passed(file.tell())
            if decompressor is not None:
                raise CutShort("compressed data ends early")
    except OSError as error:
        raise BadLog(f"{path} cannot be read ({error.strerror or error})") from None


def _gzip() -> Any:
    return zlib.decompressobj(wbits=31)


def _zstd() -> Any:
    return zstandard.ZstdDecompressor().decompressobj()
