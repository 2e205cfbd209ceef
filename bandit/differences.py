"""What changed between two versions of the config, line by line, for people. Pure."""

from __future__ import annotations

import difflib

import msgspec

from bandit.config import Config


def text_of(document: Config) -> str:
    """The document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def changes(old: Config, new: Config) -> list[str]:
    """What changed, a line each: ``-`` what was, ``+`` what is.

    >>> changes(Config(), Config(slots=3))
    ['-   "slots": 10,', '+   "slots": 3,']
    """
    lines = difflib.ndiff(text_of(old).splitlines(), text_of(new).splitlines())
    return [line for line in lines if line[0] in "+-"]
