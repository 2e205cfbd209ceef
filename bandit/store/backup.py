"""A copy of a data directory as of one moment, taken while it is served, and put back elsewhere.

The log is copied in one read transaction, which keeps nobody from writing. Models and bases are named by their
digest; those that the copied log needs are gathered while it is copied, because the service deletes old ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from bandit.errors import BanditError
from bandit.store.bases import BaseFiles, bases
from bandit.store.directory import sync_folder
from bandit.store.log import EventLog
from bandit.store.models import ModelFiles
from bandit.store.reading import ReadOnlyLog
from bandit.store.retention import used_bytes
from bandit.store.serving import kept_models

MANIFEST: Final = "backup.json"
FORMAT: Final = 1
LOOK_S: Final = 0.05
FOLDERS: Final = ("models", "bases")

Progress = Callable[[int, int], None]


class NoBackup(BanditError):
    """What was named is no backup, not whole, or not where one may be put."""

    code = "no_backup"


class BackupManifest(Struct, forbid_unknown_fields=True):
    """What a backup holds.

    :param position: newest record of its log
    :param made_at: UTC seconds
    :param files: BLAKE2b-128 of each file, hex, by its path in the folder
    """

    format: int
    position: int
    made_at: float
    files: dict[str, str]


def back_up(log: EventLog, directory: Path, target: Path, *, now: float, progress: Progress) -> BackupManifest:
    """Copy a data directory that may be in use.

    :param log: of that directory
    :param target: a folder that does not exist yet; it bears its name once it is whole
    :param progress: told (bytes copied, bytes in all)
    :raises NoBackup: the target exists, or the copy is not sound
    :raises OSError: the target cannot be written
    """
    if target.exists():
        raise NoBackup(f"{target} exists; name a folder that does not exist yet")
    with _whole_or_nothing(target) as made:
        _copy(log, directory, made, progress)
        position = _check(made)
        manifest = BackupManifest(FORMAT, position, now, _digests(made))
        (made / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the target's name once it is filled and on disk, or is gone again.

    :param target: does not exist, or is an empty folder
    """
    made = target.with_name(f"{target.name}.{os.getpid()}.part")
    made.mkdir(parents=True)
    try:
        yield made
        _sync_all(made)
        # Takes the place of an empty folder.
        made.rename(target)
        sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _copy(log: EventLog, directory: Path, made: Path, progress: Progress) -> None:
    whole = used_bytes(log)
    copied = made / "log.db"
    with ThreadPoolExecutor(1) as thread:
        copying = thread.submit(log.query, "VACUUM INTO ?", (str(copied),))
        while True:
            ended = copying.done()
            for folder in FOLDERS:
                _gather(directory / folder, made / folder)
            if ended:
                break
            progress(min(whole, copied.stat().st_size if copied.exists() else 0), whole)
            time.sleep(LOOK_S)
        copying.result()
    descriptor = os.open(made / "secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write((directory / "secret").read_bytes())


def _gather(source: Path, target: Path) -> None:
    """Copy what is there and was not yet; what goes meanwhile is not needed, or is there already."""
    target.mkdir(exist_ok=True)
    if not source.is_dir():
        return
    for path in source.iterdir():
        if path.suffix == ".part" or (target / path.name).exists():
            continue
        try:
            shutil.copyfile(path, target / path.name)
        except FileNotFoundError:
            (target / path.name).unlink(missing_ok=True)


def _check(made: Path) -> int:
    """Position of the newest record of a copy that is sound; files that its log does not need are deleted.

    :raises NoBackup: it is not
    """
    log = ReadOnlyLog(made)
    try:
        found = log.query("PRAGMA quick_check(1)")[0][0]
        if found != "ok":
            raise NoBackup(f"the log is damaged ({found}); nothing was kept of the copy")
        models, files = kept_models(log, 10_000), ModelFiles(made)
        needed = [base.base for base in bases(log)]
        BaseFiles(made).keep_only([base.statistics for base in needed])
        files.keep_only(models)
        for digest in {base.model for base in needed} | {model.digest for model in models[:1]}:
            if digest is not None:
                files.read(digest)
        for base in needed:
            BaseFiles(made).read(base.statistics)
        return log.last_position()
    finally:
        log.close()


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            found[str(path.relative_to(folder))] = digest.hexdigest()
    return found


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)


def read_backup(source: Path) -> BackupManifest:
    """What a backup says it holds, once every file of it is found whole.

    :raises NoBackup: it is none, of another format, or damaged
    """
    try:
        manifest = msgspec.json.decode((source / MANIFEST).read_bytes(), type=BackupManifest)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise NoBackup(f"{source} is no backup ({error}); name a folder that `server.py backup` made") from None
    if manifest.format != FORMAT:
        raise NoBackup(f"{source} has format {manifest.format}; this version reads {FORMAT}")
    found = _digests(source)
    wrong = _differing(manifest.files, found)
    if wrong:
        raise NoBackup(f"{source} is damaged: {', '.join(wrong[:5])}; take another one", files=wrong)
    return manifest


def _differing(said: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(name for name in said.keys() | found.keys() if said.get(name) != found.get(name))


def restore(source: Path, directory: Path) -> BackupManifest:
    """Make a data directory of a backup.

    :param directory: must not exist, or be empty
    :raises NoBackup: it holds something, or the backup is not whole; nothing was changed
    :raises OSError: it cannot be written
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise NoBackup(f"{directory} is not empty; name a data directory that does not exist yet")
    manifest = read_backup(source)
    with _whole_or_nothing(directory) as made:
        shutil.copytree(source, made, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
        (made / "secret").chmod(0o600)
        wrong = _differing(manifest.files, _digests(made))
        if wrong:
            raise NoBackup(f"{source} changed while it was read: {', '.join(wrong[:5])}; try again", files=wrong)
    return manifest
