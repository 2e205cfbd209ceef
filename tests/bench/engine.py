"""VW itself on the same candidates: the yardsticks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from vowpalwabbit import Workspace
from vowpalwabbit.pyvw import pylibvw

from bandit.features.hashing import resolve_item, resolve_shared, with_dense
from bandit.features.model_args import ModelArgs
from bandit.records import Decision
from bandit.statistics.columns import NAMES
from tests.bench.workload import VW, Workload


def shared_text(body: bytes) -> bytes:
    """Resolved shared features of a request, as `Ranker.rank` has them."""
    request = msgspec.json.decode(body)
    return resolve_shared(request["user"]["id"], request["user"]["features"], request["context"])


class Engine:
    """A workspace with a published model, and examples of a workload parsed beforehand.

    :param model: a regressor as the learner saved it
    """

    def __init__(self, model: Path, workload: Workload) -> None:
        self._vw = Workspace(f"{ModelArgs.parse(VW).vw_command()} -i {model}")
        self._features = dict(workload.items)
        # Each example is parsed once and kept for the whole run; the workspace outlives them.
        self._items = [
            self._vw.parse(f'{{"_multi":[{resolve_item(id_, features).decode()}]}}') for id_, features in workload.items
        ]
        self._shared = [
            self._vw.parse(f'{shared_text(body)[:-1].decode()},"_multi":[{{}}]}}') for body in workload.bodies
        ]
        self.events = [
            [shared[0], *(self._items[number][-1] for number in picked)]
            for shared, picked in zip(self._shared, workload.picked, strict=True)
        ]

    def predict_multi(self, event: list[Any]) -> None:
        """The engine's bare arithmetic: nothing is parsed, nothing read back."""
        pylibvw.vw.predict_multi(self._vw, event)

    def costs_of(self, decision: Decision) -> list[float]:
        """VW's costs of what a decision drew, from the features that it kept."""
        items = [
            with_dense(resolve_item(slot.id, self._features[slot.id]), NAMES, slot.dense).decode()
            for slot in decision.slots
        ]
        event = self._vw.parse(f'{bytes(decision.shared)[:-1].decode()},"_multi":[{",".join(items)}]}}')
        try:
            return list(self._vw.predict(event))
        finally:
            self._vw.finish_example(event)

    def close(self) -> None:
        for examples in (*self._items, *self._shared):
            self._vw.finish_example(examples)
        self.events.clear()
        self._items.clear()
        self._shared.clear()
        self._vw.finish()


def json_event(body: bytes) -> str:
    """A request with inline features as VW JSON."""
    request = msgspec.json.decode(body)
    actions = ",".join(resolve_item(one["id"], one["features"]).decode() for one in request["candidates"])
    return f'{shared_text(body)[:-1].decode()},"_multi":[{actions}]}}'


def text_of_json(event: str) -> list[str]:
    """The lines of a `json_event`."""
    spaces = json.loads(event)
    items = spaces.pop("_multi")
    return ["shared " + _line(spaces), *map(_line, items)]


def _line(spaces: Mapping[str, Mapping[str, Any]]) -> str:
    return " ".join(
        "|" + space + " " + " ".join(_feature(name, value) for name, value in features.items())
        for space, features in spaces.items()
    )


def _feature(name: str, value: Any) -> str:
    return f"{name}={value}" if isinstance(value, str) else name if value is True else f"{name}:{value}"


def catalogued_text(workload: Workload) -> list[list[str]]:
    """Every request of a workload, ready for VW's text parser."""
    items = [_line(json.loads(resolve_item(id_, features))) for id_, features in workload.items]
    return [
        ["shared " + _line(json.loads(shared_text(body))), *(items[number] for number in picked)]
        for body, picked in zip(workload.bodies, workload.picked, strict=True)
    ]


def text_workspace(model: Path | None = None) -> Workspace:
    """A workspace that reads text lines; the crosses are those of the workload."""
    loaded = "" if model is None else f" -i {model}"
    return Workspace(f"--cb_adf --cb_type mtr --hash all --quiet --no_stdin {ModelArgs.parse(VW).text}{loaded}")


def json_workspace() -> Workspace:
    """A workspace that reads JSON, as the learner's does."""
    return Workspace(ModelArgs.parse(VW).vw_command())
