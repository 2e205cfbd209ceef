"""Bring .venv up to a lock; do nothing when it is already there.

    python3 requirements/sync.py {run,replay,dev}

Each lock contains the one before it (run, then replay, then dev), version for version, so an environment that
was brought up to a later one serves an earlier one as it is. Standard library alone, and written for old
interpreters too, so that they get a sentence instead of a SyntaxError.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from typing import NoReturn

LEVELS = ("run", "replay", "dev")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOCKS = os.path.join(ROOT, "requirements")
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")


def fail(message: str) -> NoReturn:
    sys.exit("feed-bandit: " + message)


def lock_path(level: str, minor: str) -> str:
    return os.path.join(LOCKS, f"{level}-py{minor}.txt")


def locked_minors() -> list[str]:
    found = (re.fullmatch(r"run-py(\d+\.\d+)\.txt", name) for name in os.listdir(LOCKS))
    return sorted((m.group(1) for m in found if m), key=lambda minor: [int(n) for n in minor.split(".")])


def stamp_path(level: str) -> str:
    return os.path.join(VENV, "installed-" + level)


def stamp(level: str, minor: str) -> str:
    """What an environment must be made from: the lock, at this place (a virtual environment cannot move)."""
    with open(lock_path(level, minor), "rb") as lock:
        return hashlib.sha256(lock.read() + b"\0" + os.fsencode(ROOT)).hexdigest()


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def venv_minor() -> str | None:
    """Python of the environment that is there, or None when there is none that works."""
    match = re.search(r"^version\s*=\s*(\d+\.\d+)", read(os.path.join(VENV, "pyvenv.cfg")), re.MULTILINE)
    return match.group(1) if match and os.path.exists(VENV_PYTHON) else None


def call(*command: str) -> None:
    status = subprocess.call(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    if status:
        fail(f"this failed with status {status}: {' '.join(command)}")


def make_venv(minor: str) -> None:
    try:
        import ensurepip  # noqa: F401  Debian ships it apart, in python3-venv.
        import venv  # noqa: F401
    except ImportError:
        fail(
            f"{sys.executable} cannot make virtual environments: its venv module is not whole.\n"
            "On Debian and Ubuntu: apt install python3-venv"
        )
    call(sys.executable, "-m", "venv", *([] if venv_minor() == minor else ["--clear"]), VENV)


def install(level: str, minor: str) -> None:
    for each in LEVELS:  # An install that breaks off must not look finished.
        if os.path.exists(stamp_path(each)):
            os.remove(stamp_path(each))
    pip = [VENV_PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    call(*pip, "--require-hashes", "--only-binary=:all:", "--requirement", lock_path(level, minor))
    # The build back end is in the lock: without isolation nothing else is fetched.
    call(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    with open(stamp_path(level), "w", encoding="utf-8") as file:
        file.write(stamp(level, minor))


def main(level: str) -> None:
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    locked = locked_minors()
    if minor not in locked:
        fail(
            f"{sys.executable} is Python {minor}, for which there is no lock; "
            f"there are locks for {', '.join(locked)}.\n"
            f"Name another Python: make PYTHON=python{locked[-1]} TARGET"
        )
    if venv_minor() == minor:
        later = LEVELS[LEVELS.index(level) :]
        if any(read(stamp_path(each)) == stamp(each, minor) for each in later):
            return
    print(f"feed-bandit: setting up .venv for Python {minor} ({level}), once", flush=True)
    make_venv(minor)
    install(level, minor)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in LEVELS:
        fail("usage: sync.py {run,replay,dev}")
    main(sys.argv[1])
