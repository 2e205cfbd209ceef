"""The config on the dashboard: what is in force in words, what was when, and what changed between any two versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bandit.config import Config
from bandit.differences import changes, text_of
from bandit.service import Service
from bandit.store.configs import config_versions
from bandit.web.pages.curves import when
from bandit.wording import lasting, number

#: So many versions are listed, the newest; and so many can be compared.
LISTED: Final = 8
CHOICES: Final = 200


def view(service: Service, query: Mapping[str, str]) -> dict[str, Any]:
    """What the page says of the config.

    :param query: ``old`` and ``new``: versions to be compared
    :raises LogUnavailable: the log cannot be read
    """
    found = config_versions(service.data.log)
    documents = {version: document for version, _, document in found}
    newest, at, document = found[-1]
    history = [
        {
            "version": version,
            "at": when(ts),
            "before": found[place - 1][0] if place else None,
            "lines": len(changes(found[place - 1][2], document)) if place else 0,
        }
        for place, (version, ts, document) in reversed(list(enumerate(found))[-LISTED:])
    ]
    old, new = _version(query.get("old"), documents), _version(query.get("new"), documents)
    compared = None
    if old is not None and new is not None:
        compared = {"old": old, "new": new, "lines": changes(documents[old], documents[new])}
    asked = "old" in query or "new" in query
    return {
        "version": newest,
        "at": when(at),
        "told": told(document),
        "warnings": document.warnings(),
        "text": text_of(document),
        "history": history,
        "earlier": len(found) - len(history),
        "choices": [version for version, _, _ in found[-CHOICES:]][::-1],
        "old": old if old is not None else found[-2][0] if len(found) > 1 else newest,
        "new": new if new is not None else newest,
        "compared": compared,
        "unknown": asked and compared is None,
        "known": (found[0][0], newest),
    }


def _version(text: str | None, documents: Mapping[int, Config]) -> int | None:
    """The version of this number, if there is one."""
    if text is None or not (text.isascii() and text.isdecimal() and len(text) < 19):
        return None
    return int(text) if int(text) in documents else None


def told(document: Config) -> list[tuple[str, str, bool]]:
    """What matters of a config: name, value, and whether the value is code.

    >>> told(Config(slots=3))[4]
    ('slots', '3', False)
    """
    low, high = document.reward_range
    proofs = [name for name, signal in document.signals.items() if signal.evidence is True]
    experiment = document.experiment
    arms = [] if experiment is None else [f"{arm.name} {100 * arm.share:g} %" for arm in experiment.arms]
    return [
        ("mode", "serves its own ranking" if document.mode == "serve" else "apprentice: serves your order", False),
        ("explorer", _parts(document.explorer), False),
        ("floor", _floor(document), False),
        ("shortlist", f"the best {document.shortlist} compete" if document.shortlist else "all compete", False),
        ("slots", f"{document.slots}", False),
        ("exploration", _budget(document), False),
        ("reward", document.reward, True),
        ("reward range", f"{_figure(low)} to {_figure(high)}", False),
        ("seen without a signal", f"earns {_figure(document.default_reward)}", False),
        ("reward window", lasting(document.reward_window_s), False),
        ("seen if", "the feed was activated" if document.evidence == "served"
         else f"{' or '.join(proofs) or 'nothing but “seen”'} was reported, or something below was seen", False),
        ("rules", ", ".join(_parts(rule) for rule in document.rules) or "none", False),
        ("experiment", "none" if experiment is None else f"{experiment.name}: {', '.join(arms)}", False),
    ]  # fmt: skip


def _parts(one: msgspec.Struct) -> str:
    """A tagged part of the config in a line."""
    fields = msgspec.to_builtins(one)
    name = fields.pop(one.__struct_config__.tag_field, "")
    said = ", ".join(_said(key, value) for key, value in fields.items() if value is not None)
    return f"{name} ({said})" if said else str(name)


def _figure(value: float) -> str:
    return number(value, 0 if value == round(value) else 3)


def _said(name: str, value: Any) -> str:
    """
    >>> _said("window_s", 7_200.0), _said("gamma_scale", 1.0), _said("of", "creator")
    ('window 2 h', 'gamma scale 1', 'of creator')
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name.endswith("_s"):
            return f"{name[:-2].replace('_', ' ')} {lasting(value)}"
        value = f"{value:g}"
    return f"{name.replace('_', ' ')} {value}"


def _floor(document: Config) -> str:
    given = document.floor if isinstance(document.floor, list) else [document.floor]
    return ", ".join(f"{100 * phi:g} %" for phi in given[:12]) + (" …" if len(given) > 12 else "")


def _budget(document: Config) -> str:
    share = document.exploration.share
    return "as explorer and floor have it" if share is None else f"at most {100 * share:g} % of placements"
