"""``python -m tests.campaigns``: long statistical proofs, run by command; ``--ci`` runs a seeded part of each."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence

#: Each is a module with ``main(arguments) -> int``, which knows ``--ci`` and ``--markdown FILE``.
CAMPAIGNS = ("accuracy", "coverage", "learning", "peeking", "silence")


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 if every campaign held, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CAMPAIGNS)} (default: all)")
    parser.add_argument("--ci", action="store_true", help="a seeded part of each, some minutes in all")
    parser.add_argument("--markdown", action="store_true", help="write docs/NAME.md of each")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(CAMPAIGNS)
    if unknown:
        parser.error(f"there is no campaign {', '.join(sorted(unknown))}; there are {', '.join(CAMPAIGNS)}")
    failed = []
    for name in given.names or CAMPAIGNS:
        started = time.monotonic()
        print(f"--- {name}", flush=True)
        module = importlib.import_module(f"tests.campaigns.{name}")
        options = ["--ci"] * given.ci + (["--markdown", f"docs/{name}.md"] if given.markdown else [])
        if module.main(options) != 0:
            failed.append(name)
        print(f"({time.monotonic() - started:.0f} s)\n", flush=True)
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
