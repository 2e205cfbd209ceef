"""``server.py COMMAND``: each does beside a running service what it says, and says what it could not do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vowpalwabbit import Workspace

from bandit.cli import COMMANDS
from bandit.commands import backup, config, models
from bandit.commands import erase as erase_command
from tests.conftest import Clock
from tests.service import ROOT, RunningService, wait_for


def said(*arguments: str, status: int = 0, given: str | None = None) -> str:
    """What a command writes, through the real command line."""
    command = [sys.executable, "server.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stdout + done.stderr


def feeds(running: RunningService, n: int, *, begin: int = 0) -> None:
    """So many feeds, all of whose slots are learned."""
    before = running.call("GET", "/v1/model").body["learned_slots"]
    for k in range(begin, begin + n):
        body = {"event_id": f"e{k}", "user": {"id": f"u{k % 3}"}, "candidates": [f"v{i}" for i in range(5)], "slots": 2}
        ranking = running.call("POST", "/v1/rank", body).body["ranking"]
        items = [{"id": one["id"], "signals": {"watch_s": 10.0 + k}, "final": True} for one in ranking]
        assert running.call("POST", "/v1/feedback", {"event_id": f"e{k}", "items": items}).status == 202
    wait_for(lambda: running.call("GET", "/v1/model").body["learned_slots"] == before + 2 * n, what="the lessons")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("commands") / "data", publish_ms=50) as service:
        feeds(service, 5)
        yield service


def test_help_names_every_command_and_a_wrong_one_is_told() -> None:
    told = said("help")
    for name in [*COMMANDS, "demo", "simulate", "doctor"]:
        assert f"\n  {name}" in told
    wrong = said("srve", status=2)
    assert "srve" in wrong
    assert "serve" in wrong


@pytest.mark.parametrize("name", [*COMMANDS, "demo", "simulate", "doctor", "rebuild"])
def test_every_command_tells_how_it_is_used(name: str) -> None:
    assert "usage:" in said(name, "--help")


@pytest.mark.parametrize("main", [models.main, erase_command.main, config.main, backup.main])
def test_what_is_no_data_directory_is_told(main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {erase_command.main: ["ada"], config.main: ["show"], backup.main: [str(tmp_path / "b")]}.get(main, [])
    assert main(["--data", str(tmp_path), *words]) == 2
    assert "name the data directory of a service" in capsys.readouterr().err


# ---------------------------------------------------------------- models


def test_an_exported_model_is_loaded_by_vw_and_scores_as_the_service_does(
    running: RunningService, tmp_path: Path
) -> None:
    path = tmp_path / "model.vw"
    assert str(path) in said("models", "--data", str(running.data), "export", str(path))
    body = {"user": {"id": "u1", "features": {"country": "no"}}, "candidates": ["v0", "v1"], "event_id": "export"}
    ranked = running.call("POST", "/v1/rank", body).body
    vw = Workspace(f"-i {path} -t --quiet")
    shown = said("models", "--data", str(running.data), "show")
    assert ranked["model_version"] in shown
    assert "10 slots learned" in shown
    assert "squarecb" not in vw.get_arguments()
    weights = sum(vw.get_weight(i) != 0.0 for i in range(1 << 18))
    vw.finish()
    assert f"{weights:,} of 262,144 are not 0" in shown
    assert "exists" in said("models", "--data", str(running.data), "export", str(path), status=2).lower()


def test_a_version_that_is_not_kept_is_told(running: RunningService) -> None:
    assert "no kept model is 'abcdef'" in said("models", "--data", str(running.data), "show", "abcdef", status=2)


# ---------------------------------------------------------------- config


def test_a_config_is_shown_put_compared_and_holds_from_the_next_request_on(
    running: RunningService, tmp_path: Path
) -> None:
    data = ["--data", str(running.data)]
    before = running.call("GET", "/v1/config")
    document = json.loads(said("config", *data, "show"))
    assert document == before.body
    document["slots"] = 3
    version = int(before.headers["ETag"].strip('"'))
    told = said("config", *data, "put", "-", "--expected", str(version), given=json.dumps(document))
    assert f"config version {version + 1} is in force" in told
    assert len(running.call("POST", "/v1/rank", {"candidates": ["a", "b", "c", "d"]}).body["ranking"]) == 3
    changed = said("config", *data, "diff", str(version), status=1)
    assert changed.splitlines() == ['-   "slots": 10,', '+   "slots": 3,']
    assert "nothing changed" in said("config", *data, "diff", "1", "1")
    history = said("config", *data, "history")
    assert history.startswith(f"version {version + 1}, ")
    assert '    +   "slots": 3,' in history
    assert "is in force, not" in said("config", *data, "put", "-", "--expected", "1", given="{}", status=2)
    assert "there is no config version 99" in said("config", *data, "show", "99", status=2)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(document | {"reward": "watch * lke"}))
    assert "lke" in said("config", *data, "put", str(file), status=2)
    assert json.loads(said("config", *data, "show")) == document


# ---------------------------------------------------------------- erasing


def test_a_viewer_is_erased_beside_the_service(running: RunningService) -> None:
    running.call("POST", "/v1/rank", {"event_id": "gone", "user": {"id": "zoe"}, "candidates": ["a"]})
    assert "erased: 1 decisions" in said("erase", "--data", str(running.data), "zoe")
    assert running.call("GET", "/v1/events/gone").status == 404
    assert "nothing is known" in said("erase", "--data", str(running.data), "nobody")


def test_an_erasure_that_nobody_carries_out_yet_says_so(
    loop: Any, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    from bandit.records import RankRequest, User

    loop.service.rank(RankRequest(["a"], event_id="e", user=User("ada")))
    assert erase_command.main(["--data", str(loop.data.path), "--wait", "0", "ada"]) == 1
    assert "asked" in capsys.readouterr().err


# ---------------------------------------------------------------- backup and restore


def test_a_backup_under_load_is_a_service_of_its_own(tmp_path: Path) -> None:
    with RunningService(tmp_path / "data", publish_ms=20, keep_models=2) as running:
        feeds(running, 5)
        ended = threading.Event()
        acknowledged: list[str] = []

        def load() -> None:
            k = 0
            while not ended.is_set():
                k += 1
                body = {"event_id": f"b{k}", "user": {"id": "ada"}, "candidates": ["v0", "v1", "v2"], "slots": 2}
                ranked = running.call("POST", "/v1/rank", body).body["ranking"]
                items = [{"id": one["id"], "signals": {"watch_s": k % 50}, "final": True} for one in ranked]
                running.call("POST", "/v1/feedback", {"event_id": f"b{k}", "items": items})
                acknowledged.append(f"b{k}")

        thread = threading.Thread(target=load)
        thread.start()
        try:
            wait_for(lambda: len(acknowledged) > 20, what="load")
            before = list(acknowledged)
            told = said("backup", "--data", str(running.data), str(tmp_path / "copy"))
        finally:
            ended.set()
            thread.join()
        assert "holds the log up to position" in told
        assert "exists" in said("backup", "--data", str(running.data), str(tmp_path / "copy"), status=2)
    assert "is as of" in said("restore", "--data", str(tmp_path / "again"), str(tmp_path / "copy"))
    assert "not empty" in said("restore", "--data", str(tmp_path / "again"), str(tmp_path / "copy"), status=2)
    assert "matched" in said("rebuild", str(tmp_path / "again"))
    with RunningService(tmp_path / "again") as again:
        for event in before:
            assert again.call("GET", f"/v1/events/{event}").status == 200
        feeds(again, 2, begin=100)


def test_a_damaged_backup_is_not_restored(loop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    assert backup.main(["--data", str(loop.data.path), str(copy)]) == 0
    model = next((copy / "models").glob("*.vw"))
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    assert backup.restore_main(["--data", str(tmp_path / "again"), str(copy)]) == 2
    assert f"models/{model.name}" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert list(tmp_path.glob("*.part")) == []
