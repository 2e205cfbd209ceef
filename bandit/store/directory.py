"""The data directory as a folder; apart from `bandit.store.data` so that the parent process needs no database."""

from __future__ import annotations

import os
import secrets
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


def read_secret(directory: Path) -> bytes:
    """The key of every draw and every pseudonym: 32 random bytes, made once, readable by the owner only."""
    path = directory / "secret"
    try:
        return bytes.fromhex(path.read_text().strip())
    except FileNotFoundError:
        pass
    temporary = directory / f"secret.{os.getpid()}.part"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # link, not rename: whoever comes second must read the first one's.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    sync_folder(directory)
    return bytes.fromhex(path.read_text().strip())
