"""Every command that the docs show is one that works: run for real, but for those that take long."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.service import ROOT, RunningService, own_environ, wait_for

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.M | re.S)
_FENCED = re.compile(r"^```.*?^```\n", re.M | re.S)
_INDENTED = re.compile(r"(?<=\n\n)((?:    .*\n)+)")
_BEGINS = ("python", ".venv/bin/", "make", "curl", "vw")
#: Begins of commands that are not run here, and why. That there are such is tested all the same.
LONG = {
    "make": "each has a test of its own, or takes minutes",
    "python -m tests.": "campaigns have tests of their own, on fewer seeds",
    "curl": "README's are run by tests/test_readme.py",
    "python -m replay demo": "needs MovieLens; tests/test_demo.py plays it on a few viewers",
}
#: So that it takes seconds.
SMALLER = ((r"--feeds \d+", "--feeds 15"), (r"--viewers \d+", "--viewers 10"))


class Shown(NamedTuple):
    """A command that a page shows."""

    page: str
    command: str


def shown() -> list[Shown]:
    found = []
    for path in DOCS:
        text = path.read_text()
        blocks = [match[1] for match in _FENCE.finditer(text)]
        blocks += [re.sub(r"^    ", "", match[1], flags=re.M) for match in _INDENTED.finditer(_FENCED.sub("", text))]
        for block in blocks:
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                command = re.sub(r"\s{2,}#.*$", "", line).strip()
                if command.startswith(_BEGINS):
                    found.append(Shown(path.name, command))
    return found


def is_long(command: str) -> bool:
    return command.startswith(tuple(LONG))


SHORT = [one for one in shown() if not is_long(one.command)]


class Place(NamedTuple):
    """Where commands are run: a folder with a service's data, and the service."""

    folder: Path
    service: RunningService


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "server.py").symlink_to(ROOT / "server.py")
    (folder / ".venv" / "bin").mkdir(parents=True)
    for program in ("python", "sqlite-utils"):
        wrapper = folder / ".venv" / "bin" / program
        wrapper.write_text(f'#!/bin/sh\nexec "{Path(sys.executable).with_name(program)}" "$@"\n')
        wrapper.chmod(0o755)
    actions = {"_multi": [{"_tag": "a"}, {"_tag": "b"}]}
    line = {"_label_cost": -1, "_label_probability": 0.5, "_labelIndex": 0, "c": actions}
    (folder / "log.dsjson").write_text(json.dumps(line) + "\n")
    (folder / "logs").mkdir()
    for name, cost in (("1.json", -1), ("2.json", 0)):
        (folder / "logs" / name).write_text(json.dumps({**line, "_label_cost": cost}) + "\n")
    with RunningService(folder / "data", publish_ms=50) as service:
        videos = [{"id": f"v{n}", "features": {"length_s": 10 * n, "creator": f"c{n}"}} for n in range(1, 7)]
        service.call("PUT", "/v1/items", {"items": videos})
        for k in range(50):
            body = {
                "event_id": f"d{k}", "slots": 5, "candidates": [one["id"] for one in videos],
                "user": {"id": f"u{k}", "features": {"gender": "fm"[k % 2]}},
            }  # fmt: skip
            ranking = service.call("POST", "/v1/rank", body).body["ranking"]
            items = [{"id": one["id"], "signals": {"watch_s": 5.0 + k}, "final": True} for one in ranking]
            service.call("POST", "/v1/feedback", {"event_id": f"d{k}", "items": items})
        wait_for(lambda: service.call("GET", "/v1/model").body["learned_slots"] == 250, what="the lessons")
        (folder / "demo-data").symlink_to(folder / "data")
        yield Place(folder, service)


@pytest.mark.parametrize("one", SHORT, ids=lambda one: f"{one.page}: {one.command[:60]}")
def test_a_command_that_is_shown_does_what_it_is_shown_for(one: Shown, place: Place) -> None:
    command = one.command.replace("http://127.0.0.1:8080", place.service.url)
    command = command.replace("3f9c", place.service.call("GET", "/v1/model").body["version"][:6])
    for pattern, instead in SMALLER:
        command = re.sub(pattern, instead, command)
    if command == "python -m replay simulate":
        command += " --feeds 15"
    environ = own_environ()
    environ["PATH"] = f"{place.folder / '.venv' / 'bin'}{os.pathsep}{environ['PATH']}"
    environ["PYTHONPATH"] = str(ROOT)
    alone = command.startswith("python server.py retrain")
    if alone:
        place.service.stop()
    try:
        done = subprocess.run(
            command, shell=True, cwd=place.folder, env=environ, capture_output=True, text=True, timeout=100, check=False
        )
    finally:
        if alone:
            place.service.start()
    # 1 and 3 are answers: configs differ, a log is too small to answer from.
    assert done.returncode in (0, 1, 3), f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


def test_what_is_not_run_here_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page, command in shown():
        words = command.split()
        if words[0] == "make":
            assert words[1] in targets, f"{page}: {command}"
        elif command.startswith("python -m tests."):
            path = ROOT / words[2].replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{page}: {command}"


def test_commands_named_in_passing_exist() -> None:
    """What stands between backquotes in a sentence: ``server.py X`` and ``python -m replay X``."""
    from bandit.cli import COMMANDS
    from replay.__main__ import COMMANDS as ASKED

    known = {"help", *COMMANDS, "demo", "simulate", "doctor", "rebuild", "warm-start"}
    for path in DOCS:
        for program, name in re.findall(r"`(?:python )?(server\.py|-m replay) ([a-z-]+)", path.read_text()):
            assert name in (known if program == "server.py" else ASKED), f"{path.name}: {program} {name}"
