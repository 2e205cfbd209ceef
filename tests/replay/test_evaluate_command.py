"""``python -m replay evaluate``: exit statuses, JSON, page, and one plain line for what cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.__main__ import main


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two actions, evenly drawn; the second earns more. ``better`` prefers it, ``odd`` is all but absent."""
    rng = np.random.default_rng(1)
    n = 4_000
    action = rng.integers(0, 2, n)
    table = {
        "reward": (rng.random(n) < np.where(action == 1, 0.6, 0.3)).astype(float),
        "propensity": np.where(np.arange(n) == 0, 1e-5, 0.5),
        "action": action,
        "better": np.where(action == 1, 0.9, 0.1),
        "odd": np.where(np.arange(n) == 0, 1.0, 1e-6),
        "country": np.where(np.arange(n) % 2 == 0, "no", "se"),
    }
    table["better"][0] = 1e-5
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(table), path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["evaluate", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_an_answer_is_status_0_and_says_better(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, log, "--policy", "new=column:better", "--reward-range", 0, 1, "--slice", "country")
    assert (status, err) == (0, "")
    assert "better" in out
    assert "production" in out


def test_a_refusal_is_status_3_and_says_why(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, log, "--policy", "odd=column:odd", "--reward-range", 0, 1)
    assert status == 3
    assert "no answer" in out
    assert "worth about" in out


def test_one_answer_among_refusals_is_status_0(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--policy", "odd=column:odd", "--policy", "new=column:better")
    status, _, _ = run(capsys, log, *both, "--reward-range", 0, 1)
    assert status == 0


def test_json_holds_everything(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, log, "--policy", "new=column:better", "--json", "--slice", "country")
    found = json.loads(out)
    assert status == 0
    assert found["log"]["events"] == 4_000
    assert {part["label"] for part in found["policies"][0]["slices"]["country"]} == {"no", "se"}


def test_the_page_is_written_where_it_was_asked_for(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    status, out, _ = run(capsys, log, "--policy", "new=column:better", "--html", page)
    assert status == 0
    assert str(page) in out
    text = page.read_text()
    assert text.lstrip().lower().startswith("<!doctype html")
    assert "http://" not in text.replace("http://www.w3.org/", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--policy", "uniform"], "nowhere does not exist"),
        (["{log}", "--policy", "best"], "there is no policy 'best'"),
        (["{log}", "--policy", "a=column:none"], "none"),
        (["{log}", "--policy", "logged", "--alpha", "2"], "alpha"),
        (["{log}", "--policy", "logged", "--estimator", "magic"], "there are"),
        (["{log}", "--policy", "logged", "--slice", "planet"], "planet"),
        (["{log}", "--policy", "logged", "--reward", "like*2"], "signals"),
        (["{log}", "--policy", "logged", "--html", "/nowhere/at/all.html"], "cannot be written"),
        (["{log}", "--policy", "logged", "--kind", "dsjson"], ""),
    ],
)
def test_bad_input_is_status_2_and_one_line(
    log: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, *(word.replace("{log}", str(log)) for word in arguments))
    assert status == 2
    assert says in err
    assert err.startswith("evaluate: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


def test_a_missing_propensity_says_what_to_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"reward": [1.0, 0.0], "action": [0, 1]}), path)
    status, _, err = run(capsys, path, "--policy", "uniform")
    assert status == 2
    assert "propensity" in err


def test_it_runs_as_the_module_that_the_docs_name(log: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "replay", "evaluate", str(log), "--policy", "new=column:better"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "new" in done.stdout
