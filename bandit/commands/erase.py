"""``server.py erase``: have all that is known of a viewer deleted, beside a running service or at rest."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Final

from bandit.access.privacy import names_of, who_of
from bandit.commands.shared import DONE, NO, add_data, ended, opened
from bandit.store.directory import read_secret
from bandit.store.erasures import ask_erasure, erasure_at

NAME: Final = "erase"
LOOK_S: Final = 0.1


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 erased, or nothing was known; 1 asked for, not carried out yet; 2 could not be asked for."""
    parser = argparse.ArgumentParser(
        prog=f"server.py {NAME}",
        description="Erase a viewer: profile, decisions, feedback, sign-up. The request is a record of the log that "
        "holds a keyed hash of the id; the trainer of the service carries it out, now or at its next start. What "
        "models learned stays in their weights until `server.py retrain`.",
    )
    add_data(parser)
    parser.add_argument("user", metavar="USER", help="id of the viewer, or their pseudonym as it stands in the log")
    parser.add_argument("--wait", type=float, default=10.0, metavar="SECONDS", help="for it (default: %(default)s)")
    given = parser.parse_args(arguments)
    return ended(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    with opened(given.data) as log:
        secret = read_secret(given.data)
        names, who = names_of(given.user, secret), who_of(given.user, secret)
        found = log.append(lambda txn: ask_erasure(txn, names, who))
        if found is None:
            print("nothing is known of this viewer")
            return DONE
        until = time.monotonic() + given.wait
        while found.state != "done" and time.monotonic() < until:
            time.sleep(LOOK_S)
            found = erasure_at(log, found.erase_pos)
        if found.state != "done":
            print(
                f"asked for at position {found.erase_pos}, and {found.state}; the trainer goes on with it whenever the "
                "service runs",
                file=sys.stderr,
            )
            return NO
        print(
            f"erased: {found.decisions} decisions, {found.feedback} feedbacks, {found.activations} activations, "
            f"{found.sign_ups} sign-ups, {found.outcomes} outcomes{', the profile' if found.profile else ''}; "
            "weights forget with `server.py retrain`"
        )
        return DONE
