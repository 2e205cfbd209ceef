"""The compiled load generator, from Python: built once a run, run as a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("load.c")


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def write_bodies(path: Path, bodies: Sequence[bytes]) -> None:
    """Request bodies as the generator reads them: one a line."""
    assert not any(b"\n" in body for body in bodies)
    path.write_bytes(b"\n".join(bodies) + b"\n")


class LoadGenerator:
    """``load.c``, compiled into a folder.

    :raises RuntimeError: there is no C compiler
    """

    def __init__(self, folder: Path) -> None:
        cc = compiler()
        if cc is None:
            raise RuntimeError("the load generator needs a C compiler (cc, gcc or clang); none is installed")
        self._program = folder / "load"
        subprocess.run([cc, "-O2", "-o", str(self._program), str(SOURCE)], check=True)

    def run(
        self, port: int, bodies: Path, *, trace: Path | None = None, shed: bool = False, **options: float | str
    ) -> dict[str, Any]:
        """What it measured; see ``load.c`` for the options.

        :param shed: requests may be refused with 503
        :raises RuntimeError: it could not work, or a request failed
        """
        command = [str(self._program), "--port", str(port), "--bodies", str(bodies)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        if trace is not None:
            command += ["--trace", str(trace)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        measured: dict[str, Any] = json.loads(done.stdout)
        errors = measured["rankings"]["errors"] + measured["feedback"]["errors"]
        if not shed:
            errors += measured["rankings"]["shed"] + measured["feedback"]["shed"]
        if errors:
            raise RuntimeError(f"{errors} requests failed: {measured}")
        return measured
