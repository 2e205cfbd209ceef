"""Peers to measure against, in an environment of their own: they pin what they like, and never meet the project's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent.parent
VENV: Final = ROOT / ".cache" / "peers"
PYTHON: Final = VENV / "bin" / "python"

# obp 0.5.7 names pythons and versions that are long gone, and runs with today's if nobody asks it; pandas 3 alone
# breaks it.
NEEDED: Final = (
    "numpy", "pandas<3", "scikit-learn", "scipy", "seaborn", "torch", "tqdm", "pyyaml",
    "coba==8.1.0", "gittins==2.0.1", "mab2rec==1.3.1", "mabwiser==2.7.4", "vowpalwabbit==9.11.9",
)  # fmt: skip
BARE: Final = ("obp==0.5.7", "vw-estimators==0.2.2")


def peers() -> Path | None:
    """The Python of an environment with the peers in it, made at the first call; None if they do not install here."""
    check = [str(PYTHON), "-c", "import obp, estimators, coba, gittins, mab2rec, mabwiser"]
    if not PYTHON.exists() or subprocess.run(check, capture_output=True).returncode:
        print("setting up the peers in .cache/peers, once", file=sys.stderr)
        pip = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        commands = [
            [sys.executable, "-m", "venv", "--clear", str(VENV)],
            [*pip, *NEEDED],
            [*pip, "--no-deps", "--ignore-requires-python", *BARE],
            check,
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"the peers cannot be had here: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                return None
    return PYTHON
