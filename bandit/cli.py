"""The command line: settings in, the service up."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from bandit import model_command, retrain_command
from bandit.config import SETTINGS, read_settings
from bandit.errors import BanditError
from bandit.store.directory import make_directory
from bandit.supervisor import serve


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 stopped as asked, 2 could not start (the reason is on stderr).

    With ``models`` or ``retrain`` as the first word it is `bandit.model_command` or `bandit.retrain_command` instead.
    """
    if arguments and arguments[0] == model_command.NAME:
        return model_command.main(arguments[1:])
    if arguments and arguments[0] == retrain_command.NAME:
        return retrain_command.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="server.py",
        description="Rank candidate short videos with a contextual bandit that learns online.",
        epilog="Each setting can also come from the environment, as FEED_BANDIT_NAME. "
        "`server.py models --help`: which model serves, roll back, release. "
        "`server.py retrain --help`: a fresh model of what the log still holds.",
    )
    for setting in SETTINGS:
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            dest=setting.name,
            metavar=setting.unit.split()[0].upper(),
            help=f"{setting.help} ({setting.unit}; default: {setting.default})",
        )
    given = {name: text for name, text in vars(parser.parse_args(arguments)).items() if text is not None}
    try:
        settings = read_settings(given, os.environ)
        make_directory(settings.data)
        serve(settings)
    except BanditError as error:
        print(f"feed-bandit: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0
