"""The data directory as a folder; apart from `bandit.store.data` so that the parent process needs no database."""

from __future__ import annotations

import os
from pathlib import Path

from bandit.errors import InvalidSetting


def make_directory(path: Path) -> None:
    """Make the data directory if it is missing.

    :raises InvalidSetting: it cannot be made or written
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidSetting(
            f"data is {path}, which cannot be written ({error.strerror}); name another directory"
        ) from None


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk: a file that was fsynced can still lose its name."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
