"""Write the locks again, for every Python here that the project supports.

    python3 requirements/lock.py [--upgrade]

One resolution per Python minor: dev contains replay contains run, version for version. Pins that still fit are
kept unless --upgrade is given. The machine's pip configuration is set aside, so that a lock carries what the
package index serves and nothing of the machine: no host, no path.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
TOOLS = LOCKS / "lock-tools.txt"
EXTRAS = {"dev": ["dev", "replay", "replay-dask"], "replay": ["replay"], "run": []}
OPTIONS = [
    "--quiet",
    "--allow-unsafe",
    "--generate-hashes",
    "--strip-extras",
    "--no-emit-find-links",
    "--no-emit-index-url",
    "--no-emit-trusted-host",
]


def lock_path(level: str, minor: str) -> Path:
    return LOCKS / f"{level}-py{minor}.txt"


def supported_minors() -> list[str]:
    """Python minors that pyproject.toml names in its classifiers."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        classifiers = tomllib.load(file)["project"]["classifiers"]
    prefix = "Programming Language :: Python :: "
    return [c.removeprefix(prefix) for c in classifiers if c.startswith(prefix)]


def interpreter(minor: str) -> str | None:
    """A command that runs this Python minor, on PATH or among pyenv's; None when there is none."""
    among_pyenvs = Path("~/.pyenv/versions").expanduser().glob(f"{minor}.*/bin/python{minor}")
    for command in [f"python{minor}", *map(str, sorted(among_pyenvs))]:
        found = shutil.which(command)
        # pyenv's shims are on PATH even for Pythons that are switched off.
        if found and subprocess.run([found, "-c", "import ensurepip"], capture_output=True).returncode == 0:
            return found
    return None


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "CUSTOM_COMPILE_COMMAND": "make lock"}


def run(*command: str | Path) -> None:
    subprocess.run(command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, check=True)


def lock(minor: str, python: str, *, upgrade: bool) -> None:
    venv = ROOT / ".cache" / f"lock-py{minor}"
    run(python, "-m", "venv", "--clear", venv)
    run(venv / "bin/python", "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", TOOLS)
    compile_lock: list[str | Path] = [venv / "bin/python", "-m", "piptools", "compile", *OPTIONS]
    dev = lock_path("dev", minor)
    # What a file holds already is preferred, and its hashes are not asked for again: so a new Python starts
    # from another one's lock, and the levels, which start from dev, agree with it.
    others = [path for other in supported_minors() if (path := lock_path("dev", other)).exists()]
    if others and not dev.exists():
        shutil.copyfile(others[-1], dev)
    for level, extras in EXTRAS.items():
        output = lock_path(level, minor)
        if level != "dev":
            shutil.copyfile(dev, output)
        run(
            *compile_lock,
            *(["--upgrade"] if upgrade and level == "dev" else []),
            *(f"--extra={extra}" for extra in extras),
            "--build-deps-for=editable",
            f"--output-file={output.relative_to(ROOT)}",
            "pyproject.toml",
        )
    if upgrade and minor == supported_minors()[0]:
        output = TOOLS.relative_to(ROOT)
        run(*compile_lock, "--upgrade", f"--output-file={output}", f"{output.with_suffix('.in')}")


def main(*, upgrade: bool) -> None:
    for minor in supported_minors():
        python = interpreter(minor)
        if python is None:
            print(f"Python {minor} is not on this machine: its locks stay as they are")
            continue
        print(f"Locking for Python {minor}", flush=True)
        lock(minor, python, upgrade=upgrade)


if __name__ == "__main__":
    main(upgrade="--upgrade" in sys.argv[1:])
