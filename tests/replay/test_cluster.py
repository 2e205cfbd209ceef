"""A Dask cluster gives what one process gives, to the last bit, also when a worker is killed midway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replay import evaluate
from replay.errors import BadQuestion
from tests.dask_cluster import Dask, environ
from tests.replay.test_workers import POLICY, parquet_folder
from tests.service import ROOT


def dask_is_here() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError:
        if os.environ.get("FEED_BANDIT_CI") == "1":
            raise
        pytest.skip("dask and distributed are not installed")


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    dask_is_here()
    started = Dask(tmp_path)
    yield started
    started.stop()


#: Asks one question after another; prints the status and the answer of each. A process of its own: Dask's clients have
#: threads. The log is cut finely; workers take how it is cut from the log that they are sent.
ASK = """
import contextlib, io, json, sys
from pathlib import Path
from replay import cluster
from replay.__main__ import main
from replay.readers import parquet_rows

parquet_rows.STRETCH, cluster.CONNECT_S = 160, 2.0
for question in json.loads(sys.argv[1]):
    if question == "kill":
        Path(sys.argv[2]).touch()
        continue
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["evaluate", *question, "--json"])
    answer = {**json.loads(out.getvalue()), "seconds": 0} if out.getvalue() else None
    print(json.dumps([status, answer, err.getvalue()]))
"""


def asked(tmp_path: Path, *questions: list[str] | str) -> list[tuple[int, Any, str]]:
    """(status, answer without its seconds, what was said) of each."""
    command = [sys.executable, "-c", ASK, json.dumps(questions), str(tmp_path / "kill")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ(), cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_a_cluster_gives_the_same_bits_and_loses_a_worker_midway(tmp_path: Path, dask: Dask) -> None:
    folder = str(parquet_folder(tmp_path / "logs"))
    policy = tmp_path / "policy.py"
    policy.write_text(POLICY)
    question = [folder, "--policy", f"new=python:{policy}:new", "--policy", "uniform", "--slice", "country"]
    there = ["--dask", dask.address]
    refused = [folder, "--policy", "column:none", *there]
    once, again, killed, wrong = asked(
        tmp_path, question, [*question, *there], "kill", [*question, *there], refused
    )  # fmt: skip
    assert once[0] == 0, once
    assert again == once
    assert killed == once
    assert not (tmp_path / "kill").exists()
    assert dask.n_alive == 1
    # What a worker refuses comes back in words.
    assert (wrong[0], wrong[2]) == (2, "evaluate: column:none: the log has no column none; there are: none\n")


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    dask_is_here()
    folder = str(parquet_folder(tmp_path / "logs", n=20, files=1))
    ((status, _, said),) = asked(tmp_path, [folder, "--policy", "uniform", "--dask", "tcp://127.0.0.1:9"])
    assert status == 2
    assert said.startswith("evaluate: no Dask scheduler answers at tcp://127.0.0.1:9")


def test_without_dask_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    folder = parquet_folder(tmp_path / "logs", n=20, files=1)
    with pytest.raises(BadQuestion, match=r"pip install 'feed-bandit\[replay,replay-dask\]'"):
        evaluate(folder, ["uniform"], dask="tcp://127.0.0.1:9")
