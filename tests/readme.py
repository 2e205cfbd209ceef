"""The README's requests, run for real: ``python -m tests.readme`` writes their output into it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.service import ROOT, RunningService, call, wait_for

README = ROOT / "README.md"
EXAMPLE = re.compile(
    r"<!-- example: (?P<name>\w+) -->\n```sh\n(?P<command>.*?)```\n```json\n(?P<output>.*?)```\n", re.S
)


def examples() -> dict[str, tuple[str, str]]:
    """(command, shown output) by name, in order."""
    found = EXAMPLE.finditer(README.read_text())
    return {match["name"]: (match["command"].strip(), match["output"].strip()) for match in found}


def run(command: str, url: str) -> Any:
    """What a README command answers when it is sent to a service elsewhere."""
    words = [word.replace("http://127.0.0.1:8080", url) for word in shlex.split(command)]
    if shutil.which("curl") is None:
        # curl is no requirement of the tests; what it would send is.
        program, silent, target, flag, body = words
        assert (program, silent, flag) == ("curl", "-s", "-d")
        return call(url, "POST", target.removeprefix(url), body.encode()).body
    done = subprocess.run(words, check=True, capture_output=True, timeout=30)
    return json.loads(done.stdout)


def run_all(url: str) -> dict[str, Any]:
    """Every example's answer; after the feedback it waits until the served model has learned it."""
    answers = {}
    for name, (command, _) in examples().items():
        answers[name] = run(command, url)
        if name == "feedback":
            wait_for(lambda: call(url, "GET", "/v1/model").body["learned_slots"] == 3, what="the learned model")
    return answers


def _shown(answer: dict[str, Any]) -> str:
    """JSON with one line for each slot."""
    lines = []
    for name, value in answer.items():
        if name == "ranking":
            slots = ",\n  ".join(json.dumps(slot) for slot in value)
            lines.append(f'"ranking": [\n  {slots}]')
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{" + ",\n ".join(lines) + "}"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, RunningService(Path(folder) / "data") as service:
        answers = run_all(service.url)
    text = EXAMPLE.sub(
        lambda match: match.group(0).replace(
            f"```json\n{match['output']}```", f"```json\n{_shown(answers[match['name']])}\n```"
        ),
        README.read_text(),
    )
    README.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
