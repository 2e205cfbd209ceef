"""``python server.py warm-start``: logs of Azure Personalizer teach what the same requests would have taught here."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from bandit import records
from bandit.config import Settings
from bandit.features.hashing import resolve_item, resolve_shared
from bandit.features.nested import flat, flat_action, with_slot
from bandit.service import Service
from bandit.store.bases import bases
from bandit.store.data import DataDirectory
from bandit.web.app import create_app
from replay.rebuild import rebuild
from replay.warm_start import lessons_of
from server import warm_start
from tests.conftest import Api, Clock, Loop

# As Personalizer wrote it (trimmed): github.com/VowpalWabbit, the reading example of several clients.
LINE: dict[str, Any] = {
    "_label_cost": -0.5,
    "_label_probability": 0.05,
    "_label_Action": 4,
    "_labelIndex": 3,
    "o": [{"v": 0.5, "EventId": "13118d9b", "ActionTaken": False}],
    "Timestamp": "2021-02-04T16:31:29.2460000Z",
    "Version": "1",
    "EventId": "13118d9b",
    "a": [4, 2, 1, 3],
    "c": {
        "FromUrl": [{"timeofday": "Afternoon", "user": {"name": "Cathy"}}],
        "_multi": [
            {
                "_tag": name,
                "i": {"constant": 1, "id": name},
                "j": [{"type": kind, "id": "7"}, {"origin": {"land": "x"}}],
            }
            for name, kind in (("Cappucino", "hot"), ("Cold brew", "cold"), ("Iced mocha", "cold"), ("Latte", "hot"))
        ],
    },
    "p": [0.05, 0.05, 0.05, 0.85],
    "VWState": {"m": "ff07/550c"},
    "_original_label_cost": -0.5,
}


def test_a_line_has_the_features_that_the_request_has_here() -> None:
    (lesson,) = lessons_of(json.dumps(LINE).encode(), traits=True)
    context = flat(b'[{"timeofday":"Afternoon","user":{"name":"Cathy"}}]', path="contextFeatures")
    features = json.loads(bytes(flat_action(b'[{"type":"hot","id":"7"},{"origin":{"land":"x"}}]')))
    assert lesson.shared == resolve_shared(None, {}, context)
    assert lesson.item == resolve_item("Latte", features, traits=True)
    assert (lesson.cost, lesson.propensity, lesson.pdrop) == (-0.5, 0.05, 0.0)


def test_a_page_has_the_features_that_it_has_here() -> None:
    page = {
        "EventId": "p",
        "c": LINE["c"] | {"_slots": [{"_id": "main", "j": [{"size": "large"}]}, {"_id": "side", "size": "small"}]},
        "_outcomes": [
            {"_label_cost": -1.0, "_id": "main", "_a": [1, 0, 2, 3], "_p": [0.7, 0.1, 0.1, 0.1]},
            {"_label_cost": 0.0, "_id": "side", "_a": 0, "_p": 0.4},
        ],
    }
    main, side = lessons_of(json.dumps(page).encode(), traits=True)
    context = flat(b'[{"timeofday":"Afternoon","user":{"name":"Cathy"}}]', path="contextFeatures")
    for lesson, slot_id, size in ((main, "main", "large"), (side, "side", "small")):
        sent = json.dumps([{"size": size}]).encode()
        assert lesson.shared == resolve_shared(None, {}, with_slot(context, slot_id, sent, path="slots"))
    assert (b'"id":"Cold brew"' in main.item, b'"id":"Cappucino"' in side.item) == (True, True)
    assert [(one.cost, one.propensity) for one in (main, side)] == [(-1.0, 0.7), (0.0, 0.4)]


def test_dsjson_of_others_is_read_by_its_namespaces() -> None:
    line = LINE | {"c": {"GUser": {"id": "a"}, "_multi": [{"TAction": {"a1": "f1"}}, {"TAction": {"a2": "f2"}}]}}
    first, second = (
        lessons_of(json.dumps(line | {"_labelIndex": index, "_label_Action": index + 1}).encode(), traits=False)[0]
        for index in (0, 1)
    )
    assert first.shared == resolve_shared(None, {}, {"GUser.id": "a"})
    assert b'"TAction.a1":"f1"' in first.item
    assert first.item != second.item, "known by their features"


def logged(n: int, *, seed: int = 3) -> list[dict[str, Any]]:
    """Uniform draws; hot in the morning and cold in the afternoon earn."""
    rng = random.Random(seed)
    lines = []
    for number in range(n):
        when = rng.choice(["Morning", "Afternoon"])
        shown = rng.randrange(4)
        earned = float((LINE["c"]["_multi"][shown]["j"][0]["type"] == "hot") == (when == "Morning"))
        c = LINE["c"] | {"FromUrl": [{"timeofday": when}]}
        label = {"_label_cost": -earned, "_label_probability": 0.25, "_label_Action": shown + 1, "_labelIndex": shown}
        lines.append(LINE | label | {"EventId": f"e{number}", "c": c})
    return lines


def write(path: Path, lines: list[Any]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def best(service: Service, when: str) -> dict[str, float]:
    """Score of every action, as served."""
    actions = [
        {"id": one["_tag"], "features": json.loads(bytes(flat_action(json.dumps(one["j"]).encode())))}
        for one in LINE["c"]["_multi"]
    ]
    body = json.dumps({"candidates": actions, "context": {"timeofday": when}, "slots": 4}).encode()
    reply = service.rank(records.decode(body, records.RankRequest))
    return {one.id: one.score or 0.0 for one in reply.ranking}


def test_a_new_directory_begins_with_what_was_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "log.dsjson.gz", logged(400))
    path = tmp_path / "data"
    assert warm_start([str(log), "--data", str(path)]) == 0
    told = capsys.readouterr().out
    assert "read 400 lines, learned 400 slots; none skipped" in told
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    assert [one.base.cause for one in bases(data.log)] == ["warm-start"]
    loop = Loop(data, clock)
    assert loop.service.model().learned_slots == 400
    for when, kind in (("Morning", "hot"), ("Afternoon", "cold")):
        scores = best(loop.service, when)
        earning = {one["_tag"] for one in LINE["c"]["_multi"] if one["j"][0]["type"] == kind}
        assert set(sorted(scores, key=scores.__getitem__)[2:]) == earning
    loop.end_windows()
    assert rebuild(path).ok
    loop.close()
    data.close()


def test_a_log_of_its_own_is_learned_after_it(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api = Api(create_app(loop.service).test_client())
    for number in range(5):
        api.call("POST", "/personalizer/v1.0/rank", {"actions": [{"id": "Latte"}], "eventId": f"e{number}"})
    loop.end_windows()
    loop.close()
    loop.data.close()
    log = write(tmp_path / "log.dsjson", logged(10))
    assert warm_start([str(log), "--data", str(loop.data.path)]) == 0
    assert "has learned 15 slots, 5 of its own log" in capsys.readouterr().out
    assert rebuild(loop.data.path).ok


def test_what_teaches_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = logged(2)
    huge = LINE | {"c": {"FromUrl": [{"n": 1e300}], "_multi": LINE["c"]["_multi"]}}
    nobody = {name: value for name, value in LINE.items() if not name.startswith("_label")} | {"_label_cost": -1.0}
    lines: list[Any] = [
        good[0],
        "not json",
        "[a note]",
        "{}",
        LINE | {"_skipLearn": True},
        {"EventId": "x", "RewardValue": 1.0},
        {name: value for name, value in LINE.items() if not name.startswith("_label")},
        nobody,
        LINE | {"_labelIndex": 9},
        huge,
        "",
        good[1],
    ]
    log = write(tmp_path / "log.dsjson", lines)
    assert warm_start([str(log), "--data", str(tmp_path / "data")]) == 0
    told = capsys.readouterr().out
    assert "read 11 lines, learned 2 slots" in told
    for reason in (
        "2 no dsjson (first: log.dsjson:2)",
        "1 notes of the service",
        "1 never activated (first: log.dsjson:5)",
        "1 outcomes that came too late",
        "1 without a reward",
        "2 that do not say what was shown",
        "1 with features that cannot be learned (first: log.dsjson:10: context.n",
    ):
        assert reason in told, told


def test_refusals_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    assert warm_start([str(tmp_path / "none"), "--data", str(data)]) == 2
    assert not data.exists()
    log = write(tmp_path / "log.dsjson", ["nothing"])
    assert warm_start([str(log), "--data", str(data)]) == 2
    assert "nothing could be learned" in capsys.readouterr().err
    good = write(tmp_path / "good.dsjson", logged(3))
    assert warm_start([str(good), "--data", str(data), "--vw", "-b 20"]) == 2
    assert "was begun with" in capsys.readouterr().err
    opened = DataDirectory(Settings(data))
    assert [one.base.cause for one in bases(opened.log)] == ["begin"]
    opened.close()
