"""Small logs for the readers' tests, in the shapes that others write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from replay.events import Log, Needs
from replay.readers.ragged import joined

ALL = Needs(candidates=True, texts=True)


def cb(**changes: Any) -> dict[str, Any]:
    """A decision as Personalizer logs it; None leaves a member out."""
    line = {
        "_label_cost": -1.0,
        "_label_probability": 0.5,
        "_label_Action": 2,
        "_labelIndex": 1,
        "o": [{"v": 1.0, "EventId": "e1", "ActionTaken": False}],
        "Timestamp": "2021-04-26T17:23:28.1726275Z",
        "Version": "1",
        "EventId": "e1",
        "a": [2, 1, 3],
        "c": {
            "User": {"id": "u7", "age": 3},
            "Geo": [{"country": "de"}],
            "_multi": [{"_tag": "11", "I": {"x": 1}}, {"_tag": "12", "I": {"x": 2}}, {"_tag": "13", "I": {"x": 3}}],
        },
        "p": [0.5, 0.3, 0.2],
        "VWState": {"m": "m1"},
    }
    return {key: value for key, value in {**line, **changes}.items() if value is not None}


def ccb(**changes: Any) -> dict[str, Any]:
    """A feed of two slots over three candidates, as learning-loop logs it."""
    line = {
        "Timestamp": "2021-04-26T17:23:28.1726275",
        "Version": "1",
        "EventId": "f1",
        "c": {
            "Shared": [{"weather": "sunny"}],
            "_multi": [
                {"_tag": "Mocha", "i": {"id": "Mocha"}},
                {"_tag": "Latte", "i": {"id": "Latte"}},
                {"_tag": "Tea", "i": {"id": "Tea"}},
            ],
            "_slots": [{"_id": "Main", "s": {"size": "L"}}, {"_id": "Side", "s": {"size": "M"}}],
        },
        "_outcomes": [
            {"_label_cost": -0.6, "_id": "Main", "_a": [2, 0, 1], "_p": [0.5, 0.25, 0.25], "_o": [{"v": 0.6}]},
            {"_label_cost": 0.0, "_id": "Side", "_a": [0, 1], "_p": [0.8, 0.2], "_o": []},
        ],
        "VWState": {"m": "N/A"},
    }
    return {key: value for key, value in {**line, **changes}.items() if value is not None}


def written(path: Path, *lines: Any, name: str = "log.json") -> Path:
    """A file of lines: objects are encoded, texts and bytes stand as they are."""
    target = path / name
    encoded = [
        line if isinstance(line, bytes) else line.encode() if isinstance(line, str) else json.dumps(line).encode()
        for line in lines
    ]
    target.write_bytes(b"\n".join(encoded) + b"\n")
    return target


def whole(log: Log, needs: Needs = ALL) -> Any:
    """All of a log in one batch."""
    return joined(list(log.batches(needs)))


def same(a: Any, b: Any, *names: str) -> None:
    """Columns are equal, bit by bit."""
    for name in names:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
