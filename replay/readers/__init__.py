"""Opens logs of every kind that is known, and gives them in one shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from replay.errors import BadLog, BadQuestion
from replay.events import Log

KINDS: Final = ("service", "dsjson", "parquet", "obd", "obp")
"""What ``kind`` may be. ``obp`` is an .npz of obp's bandit feedback, which is read as arrays."""

SEVERAL: Final = ("dsjson", "parquet")
"""Of which several files are one log."""

ALLOWED: Final = (
    "a service's data directory, a dsjson file (.json, .dsjson, .jsonl; also .gz, .zst), a Parquet file, several files "
    "or a directory of either, an Open Bandit Dataset directory or CSV, or an .npz of obp's bandit feedback"
)

_JSON: Final = (".json", ".dsjson", ".jsonl", ".ndjson")
_COMPRESSED: Final = (".gz", ".zst")
_MAGIC: Final = ((b"PAR1", "parquet"), (b"SQLite format 3\0", "service"), (b"PK\x03\x04", "obp"))


def open_log(
    path: str | Path | Sequence[str | Path],
    *,
    kind: str | None = None,
    on_broken: str = "skip",
    reward: str | None = None,
    **options: Any,
) -> Log:
    """Open a log, of whatever kind it is.

    :param path: of one file or directory; of several, if they are dsjson or Parquet: they are read in this order
    :param kind: one of ``KINDS``; found out from the content and the name if not given
    :param on_broken: ``skip`` counts broken lines and goes on, ``fail`` refuses at the first
    :param reward: a formula over a service's raw signals, in place of the configured one
    :param options: of the kind's reader, see its class
    :raises BadLog: there is no log, it is empty, or of no kind that is known; an option is not known
    :raises BadQuestion: a reward formula for a log that has no signals
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(each) for each in path]
    if kind is not None and kind not in KINDS:
        raise BadLog(f"kind={kind!r} is not known; allowed are {', '.join(KINDS)}")
    if on_broken not in ("skip", "fail"):
        raise BadLog(f"on_broken={on_broken!r} is not known; allowed are 'skip' and 'fail'")
    found = _kind_of_all(paths, kind)
    if reward is not None and found != "service":
        raise BadQuestion(
            f"a reward formula needs raw signals, which only a service's log has; {paths[0]} is {found}, whose rewards "
            "are as logged"
        )
    try:
        log: Log = _opened(paths, found, on_broken, reward, options)
        return log
    except TypeError as error:
        unknown = _unknown_option(str(error))
        if unknown is None:
            raise
        raise BadLog(f"{unknown} is no option of a {found} log") from None


def _kind_of_all(paths: Sequence[Path], kind: str | None) -> str:
    """The kind that all are of.

    :raises BadLog: there are none, they are of several kinds, or of one that is read alone
    """
    if not paths:
        raise BadLog(f"there is no log; name {ALLOWED}")
    if kind is not None:
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise BadLog(f"{missing[0]} does not exist; name {ALLOWED}")
    kinds = {path: kind or kind_of(path) for path in paths}
    if len(kinds) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise BadLog(f"{twice} is named twice; its events would count twice")
    found = kinds[paths[0]]
    for path, other in kinds.items():
        if other != found:
            raise BadLog(f"{paths[0]} is {found} and {path} is {other}; files of one log are of one kind")
    if len(paths) > 1 and found not in SEVERAL:
        raise BadLog(f"{len(paths)} logs are named, of kind {found}, of which one is read at a time; name one")
    return found


def kind_of(path: Path) -> str:
    """What a log is, by content first and name second.

    :raises BadLog: nothing that is known
    """
    try:
        if path.is_dir():
            return _kind_of_directory(path)
        if not path.exists():
            raise BadLog(f"{path} does not exist; name {ALLOWED}")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise BadLog(f"{path} cannot be read ({error.strerror or error})") from None
    if not head:
        raise BadLog(f"{path} is empty; name {ALLOWED}")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if path.name == "log.db":
        return "service"
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
        if not suffixes or suffixes[-1] in _JSON:
            return "dsjson"
    elif suffixes and suffixes[-1] == ".csv":
        return "obd"
    elif (suffixes and suffixes[-1] in _JSON) or head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "dsjson"
    raise BadLog(f"{path} is no log of a known kind; name {ALLOWED}")


def _kind_of_directory(path: Path) -> str:
    if (path / "log.db").is_file():
        return "service"
    names = [each.name for each in sorted(path.iterdir()) if each.is_file() and not each.name.startswith((".", "_"))]
    if any(name.endswith(".parquet") for name in names):
        return "parquet"
    if any(name.endswith(".csv") and name != "item_context.csv" for name in names):
        return "obd"
    below = sorted(str(each.parent) for each in path.glob("*/*/item_context.csv"))
    if not below:
        below = sorted(str(each.parent) for each in path.glob("*/item_context.csv"))
    if below:
        raise BadLog(f"{path} holds several logs; name one of {', '.join(below)}")
    logs = [name for name in names if _is_json(name)]
    if logs:
        return "dsjson"
    what = "is empty" if not any(path.iterdir()) else "holds no log of a known kind"
    raise BadLog(f"{path} {what}; name {ALLOWED}")


def _is_json(name: str) -> bool:
    return name.removesuffix(".gz").removesuffix(".zst").endswith(_JSON)


def _files(paths: Sequence[Path], kind: str) -> list[Path]:
    """All files, those of a directory in the order of their names.

    :raises BadLog: a directory without any
    """
    files = []
    for path in paths:
        found = [path]
        if path.is_dir() and kind == "parquet":
            found = sorted(path.rglob("*.parquet"))
        elif path.is_dir():
            found = sorted(each for each in path.iterdir() if each.is_file() and _is_json(each.name))
        if not found:
            raise BadLog(f"{path} holds no {'.parquet' if kind == 'parquet' else 'dsjson'} file")
        files += found
    return files


def _opened(paths: Sequence[Path], kind: str, on_broken: Any, reward: str | None, options: dict[str, Any]) -> Any:
    # Readers are loaded when they are needed: each has libraries of its own.
    path = paths[0]
    name = str(path) if len(paths) == 1 else f"{path} and {len(paths) - 1} more"
    files = _files(paths, kind) if kind in SEVERAL else []
    if kind == "service":
        from replay.readers.service import ServiceLog

        return ServiceLog(path, reward=reward, **options)
    if kind == "dsjson":
        from replay.readers.dsjson import DsjsonLog

        return DsjsonLog(files, name=name, on_broken=on_broken, **options)
    if kind == "parquet":
        from replay.readers.parquet import ParquetLog

        return ParquetLog(files, name=name, on_broken=on_broken, **options)
    if kind == "obd":
        from replay.readers.obd import OpenBanditLog

        return OpenBanditLog(path, on_broken=on_broken, **options)
    from replay.readers.obp import obp_log

    return obp_log(path, **options)


def _unknown_option(message: str) -> str | None:
    marker = "got an unexpected keyword argument "
    return message.partition(marker)[2].strip("'\"") or None if marker in message else None
