"""Start the feed ranker, or ask something of it: ``python server.py``; see ``python server.py help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def worker() -> Any:
    """The WSGI app of one rank worker; the supervisor's children call this."""
    from bandit.worker import make_app

    return make_app()


def demo(arguments: Sequence[str]) -> int:
    return _ask_replay("demo", arguments)


def simulate(arguments: Sequence[str]) -> int:
    return _ask_replay("simulate", arguments)


def doctor(arguments: Sequence[str]) -> int:
    return _ask_replay("doctor", arguments)


def rebuild(arguments: Sequence[str]) -> int:
    return _ask_replay("rebuild", arguments)


def warm_start(arguments: Sequence[str]) -> int:
    from bandit.commands.warm_start import main
    from replay.warm_start import teach

    return main(arguments, teach)


def _ask_replay(command: str, arguments: Sequence[str]) -> int:
    from replay.__main__ import main

    return main([command, *arguments])


if __name__ == "__main__":
    from bandit.cli import Command, main

    sys.exit(
        main(
            sys.argv[1:],
            {
                "warm-start": Command("learn from logs of Azure Personalizer before serving", "server:warm_start"),
                "doctor": Command("is a log sound? propensities, joins, by day and release", "server:doctor"),
                "rebuild": Command("build every published model again from the log, and compare", "server:rebuild"),
                "demo": Command("play MovieLens viewers against a service, draw the learning curve", "server:demo"),
                "simulate": Command("play simulated viewers, whose taste is known", "server:simulate"),
            },
        )
    )
