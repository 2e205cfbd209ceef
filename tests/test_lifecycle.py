"""Starting, stopping and dying: what is said, what survives, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bandit.config import SETTINGS, VW_ARGUMENTS, Settings, read_settings
from bandit.errors import InvalidSetting
from bandit.features.model_args import ModelArgs
from bandit.store.data import DataDirectory
from tests.service import ROOT, RunningService, call, free_port, own_environ, send, wait_for


def start_in_vain(*arguments: str, environ: dict[str, str] | None = None) -> str:
    """What ``server.py`` says when it does not start; it must be told by exit status 2 and without a traceback."""
    ended = subprocess.run(
        [sys.executable, "server.py", *arguments],
        cwd=ROOT, env=own_environ() | (environ or {}), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stderr


# ---------------------------------------------------------------- settings


def test_every_wrong_setting_is_listed_at_once() -> None:
    given = {
        "data": "", "host": "", "port": "http", "workers": "-1", "threads": "0", "vw": "--ccb_explore_adf",
        "durable": "maybe", "publish_ms": "1", "tick_s": "nan", "cache_items": "5", "keep_models": "1",
        "guard": "perhaps", "max_body_mb": "1e3", "retain_days": "-1", "retain_gb": "nan",
        "pseudonymise": "some", "keys": "maybe", "rate_limit": "-1", "queue": "some", "queue_ms": "-5",
        "log_format": "xml", "demo": "maybe",
    }  # fmt: skip
    assert given.keys() == {setting.name for setting in SETTINGS}
    with pytest.raises(InvalidSetting) as caught:
        read_settings(given, {"FEED_BANDIT_TYPO": "1"})
    faults = caught.value.detail["faults"]
    assert len(faults) == len(given) + 1
    for name in (*given, "FEED_BANDIT_TYPO"):
        assert sum(fault.startswith((f"{name} ", f"environment variable {name} ")) for fault in faults) == 1, name


def test_the_command_line_goes_before_the_environment_and_both_before_defaults(tmp_path: Path) -> None:
    environ = {"FEED_BANDIT_PORT": "9000", "FEED_BANDIT_THREADS": "2", "HOME": "/nowhere"}
    settings = read_settings({"port": "9001", "data": str(tmp_path)}, environ)
    assert (settings.port, settings.threads, settings.publish_ms) == (9001, 2, 400)
    assert settings.data == tmp_path


def test_children_read_the_settings_that_the_parent_had(tmp_path: Path) -> None:
    given = {"data": str(tmp_path), "workers": "3", "durable": "no", "tick_s": "0.5", "vw": "-q UI --cubic UCI"}
    settings = read_settings(given, {})
    assert read_settings({}, settings.environment()) == settings


def test_wrong_settings_end_the_start_with_all_faults() -> None:
    said = start_in_vain("--port", "99999", "--vw=--sgd", environ={"FEED_BANDIT_WORKERS": "many"})
    assert all(word in said for word in ("port", "--sgd", "workers"))


def test_help_tells_every_setting() -> None:
    told = subprocess.run(
        [sys.executable, "server.py", "serve", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    for setting in SETTINGS:
        assert f"--{setting.name.replace('_', '-')}" in told


# ---------------------------------------------------------------- starts that must not succeed


def test_a_data_directory_that_cannot_be_made_or_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/feed-bandit")):
        said = start_in_vain("--data", str(path), "--port", str(free_port()))
        assert str(path) in said
        assert "another directory" in said


def test_a_data_directory_that_is_there_but_cannot_be_written_is_told() -> None:
    # Where even root may not write.
    assert "cannot be written" in start_in_vain("--data", "/proc/self", "--port", str(free_port()))


def test_a_second_start_on_one_data_directory_says_who_has_it(running: RunningService) -> None:
    said = start_in_vain("--data", str(running.data), "--port", str(free_port()))
    assert str(running.data) in said
    assert str(running.pids().parent) in said
    assert running.call("GET", "/healthz").status == 200


def test_a_start_on_a_taken_port_says_so(running: RunningService, tmp_path: Path) -> None:
    said = start_in_vain("--data", str(tmp_path / "data"), "--port", str(running.port))
    assert str(running.port) in said
    assert running.call("GET", "/healthz").status == 200


def test_a_start_on_an_address_of_nobody_says_so(tmp_path: Path) -> None:
    for host in ("192.0.2.1", "no.such.host.invalid", "x" * 300):
        said = start_in_vain("--data", str(tmp_path / "data"), "--host", host, "--port", str(free_port()))
        assert host in said


def test_other_vw_arguments_on_an_old_directory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    DataDirectory(Settings(path, vw="-b 10 -q UI")).close()
    said = start_in_vain("--data", str(path), "--port", str(free_port()), "--vw", "-b 12 -q UI")
    assert "--bit_precision 10" in said
    assert "--bit_precision 12" in said


def test_the_same_vw_arguments_in_another_spelling_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    DataDirectory(Settings(path, vw="-b 10 -q UI --cubic UCI")).close()
    DataDirectory(Settings(path, vw="--cubic UCI --quadratic=UI --bit_precision 10")).close()


def test_without_vw_arguments_a_directory_goes_on_with_its_own(tmp_path: Path) -> None:
    DataDirectory(Settings(tmp_path, vw="-b 10 -q UI")).close()
    settings = read_settings({"data": str(tmp_path)}, {})
    for each in (settings, read_settings({}, settings.environment())):
        data = DataDirectory(each)
        assert data.args.text == ModelArgs.parse("-b 10 -q UI").text
        data.close()
    (tmp_path / "new").mkdir()
    data = DataDirectory(Settings(tmp_path / "new"))
    assert data.args == ModelArgs.parse(VW_ARGUMENTS)
    data.close()


@pytest.mark.parametrize("garbage", [b"only the name is right" * 400, b"SQLite format 3\0" + b"\xff" * 8_000])
def test_a_start_on_a_corrupt_database_says_so(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "log.db").write_bytes(garbage)
    said = start_in_vain("--data", str(path), "--port", str(free_port()))
    assert "log.db" in said
    assert (path / "log.db").read_bytes() == garbage


# ---------------------------------------------------------------- stopping, dying, and starting again


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One that the tests below, in their order, stop, kill and start again."""
    started = RunningService(tmp_path_factory.mktemp("life") / "data", workers=1, threads=4)
    started.start()
    yield started
    started.stop()


def nobody_listens(service: RunningService) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", service.port)) != 0


def rank(service: RunningService, event_id: str) -> Any:
    return service.call("POST", "/v1/rank", {"event_id": event_id, "candidates": ["a", "b", "c"]}).body


def test_a_killed_trainer_is_started_again_while_rankings_go_on(service: RunningService) -> None:
    before = service.pids()
    assert before.trainer is not None
    os.kill(before.trainer, signal.SIGKILL)
    event_id = rank(service, "while-it-is-dead")["event_id"]
    items = [{"id": "a", "reward": 1, "seen": True, "final": True}]
    assert service.call("POST", "/v1/feedback", {"event_id": event_id, "items": items}).status == 202

    def learned() -> bool:
        assert service.call("POST", "/v1/rank", {"candidates": ["a"]}).body["fallback"] is None
        slots = service.call("GET", f"/v1/events/{event_id}").body["slots"]
        return [slot["status"] for slot in slots if slot["id"] == "a"] == ["learned"]

    wait_for(learned, timeout_s=60, what="what the new trainer learned")
    after = service.pids()
    assert after.trainer not in (None, before.trainer)
    assert after.workers == before.workers


def test_a_killed_worker_is_started_again_and_knows_what_it_answered(service: RunningService) -> None:
    first = rank(service, "e1")
    (worker,) = service.pids().workers
    os.kill(worker, signal.SIGKILL)
    again = wait_for(lambda: rank(service, "e1"), timeout_s=60, what="an answer from a new worker")
    assert again == first
    assert service.pids().workers != [worker]


def test_requests_in_flight_at_sigterm_finish_and_the_log_is_whole(service: RunningService) -> None:
    first = rank(service, "before the stop")
    items = [{"id": f"v{k}", "features": {"genre": f"g{k % 9}", "n": k}} for k in range(10_000)]
    acknowledged: list[str] = []
    put: list[int] = []

    def put_items() -> None:
        put.append(service.call("PUT", "/v1/items", {"items": items}).status)

    def keep_ranking(thread: int) -> None:
        connection = service.connect()
        try:
            for k in range(100_000):
                event_id = f"t{thread}-{k}"
                body = {"event_id": event_id, "candidates": ["a", "b", "c"]}
                if send(connection, "POST", "/v1/rank", body).status == 200:
                    acknowledged.append(event_id)
        except Exception:  # It has stopped, as it should.
            return
        finally:
            connection.close()

    threads = [threading.Thread(target=put_items), *(threading.Thread(target=keep_ranking, args=(k,)) for k in (1, 2))]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(acknowledged) > 20, what="rankings")
    began = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began < 5
    for thread in threads:
        thread.join()
    assert put == [200]
    assert "Traceback" not in service.log(), service.log()

    service.start()
    assert rank(service, "before the stop") == first
    for event_id in acknowledged[-50:]:
        assert service.call("GET", f"/v1/events/{event_id}").status == 200, event_id
    assert service.call("GET", "/v1/items/v9999").body["features"] == {"genre": "g0", "n": 9999}


def test_ctrl_c_stops_all_of_it(service: RunningService) -> None:
    pids = service.pids()
    family = [psutil.Process(pid) for pid in (pids.parent, *pids.workers, pids.trainer or pids.parent)]
    # A terminal sends it to all processes of the group.
    for process in family:
        process.send_signal(signal.SIGINT)
    assert service.wait(timeout_s=5) == 0
    _, alive = psutil.wait_procs(family, timeout=2)
    assert not alive
    assert "Traceback" not in service.log(), service.log()
    service.start()


def test_nothing_serves_two_seconds_after_the_parent_was_killed(service: RunningService) -> None:
    first = rank(service, "before the kill")
    pids = service.pids()
    family = [psutil.Process(pid) for pid in (*pids.workers, pids.trainer or pids.parent)]
    os.kill(pids.parent, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=2)
    assert not alive
    assert nobody_listens(service)
    assert service.wait() == -signal.SIGKILL
    service.start()
    assert rank(service, "before the kill") == first


def test_a_parent_killed_while_it_starts_leaves_nobody(tmp_path: Path) -> None:
    service = RunningService(tmp_path / "data").start(ready=False)
    parent = service.pids().parent
    wait_for(lambda: service.pids().trainer, timeout_s=60, what="the trainer")
    family = psutil.Process(parent).children(recursive=True)
    os.kill(parent, signal.SIGKILL)
    service.wait()
    # A child that has not come as far as asking to die with its parent looks for it first thing.
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert nobody_listens(service)


@pytest.mark.parametrize("moment", ["it holds its directory", "trainer started", "serving on"])
def test_sigterm_while_it_starts_ends_it(tmp_path: Path, moment: str) -> None:
    service = RunningService(tmp_path / "data").start(ready=False)
    lock = tmp_path / "data" / "lock"
    wait_for(
        lambda: moment in service.log() or (moment == "it holds its directory" and lock.exists() and lock.read_text()),
        timeout_s=60,
        what=moment,
    )
    family = psutil.Process(service.pids().parent).children(recursive=True)
    began = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began < 5
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    with pytest.raises(OSError, match="refused"):
        call(service.url, "GET", "/healthz")
