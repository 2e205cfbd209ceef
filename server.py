"""Start the feed ranker, or ask something of it: ``python server.py``; see ``python server.py help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def worker() -> Any:
    """The WSGI app of one rank worker; the supervisor's children call this."""
    from bandit.worker import make_app

    return make_app()


def warm_start(arguments: Sequence[str]) -> int:
    from bandit.commands.warm_start import main
    from replay.warm_start import teach

    return main(arguments, teach)


if __name__ == "__main__":
    from bandit.cli import Command, main

    def replay(command: str, summary: str) -> Command:
        return Command(summary, "replay.__main__:main", (command,))

    sys.exit(
        main(
            sys.argv[1:],
            {
                "warm-start": Command("learn from logs of Azure Personalizer before serving", "server:warm_start"),
                "doctor": replay("doctor", "is a log sound? propensities, joins, by day and release"),
                "rebuild": replay("rebuild", "build every published model again from the log, and compare"),
                "demo": replay("demo", "play MovieLens viewers against a service, draw the learning curve"),
                "simulate": replay("simulate", "play simulated viewers, whose taste is known"),
            },
        )
    )
