"""Start the feed ranker: ``python server.py``; see ``--help``."""

from __future__ import annotations

import sys
from typing import Any


def worker() -> Any:
    """The WSGI app of one rank worker; the supervisor's children call this."""
    from bandit.worker import make_app

    return make_app()


if __name__ == "__main__":
    from bandit.cli import main

    sys.exit(main(sys.argv[1:]))
