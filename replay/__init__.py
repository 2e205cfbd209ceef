"""What would another policy have earned? Asked of a log, answered with an interval, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replay.evaluation import evaluate as evaluate
    from replay.readers import open_log as open_log
    from replay.readers.arrays import from_arrays as from_arrays

__all__ = ["evaluate", "from_arrays", "open_log"]

_HOMES = {"evaluate": "evaluation", "open_log": "readers", "from_arrays": "readers.arrays"}


def __getattr__(name: str) -> Any:
    """What is asked for is loaded when it is asked for: `rebuild` runs where scikit-learn is not installed."""
    if name not in _HOMES:
        raise AttributeError(f"module 'replay' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"replay.{_HOMES[name]}"), name)
