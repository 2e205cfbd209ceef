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
#: After these, so many slots are learned before the next example runs.
LEARNED = {"feedback": 3, "enough": 6}


def examples() -> dict[str, tuple[str, str]]:
    """(command, shown output) by name, in order."""
    found = EXAMPLE.finditer(README.read_text())
    return {match["name"]: (match["command"].strip(), match["output"].strip()) for match in found}


def run(command: str, url: str) -> Any:
    """What a README command answers when it is sent to a service elsewhere."""
    words = [word.replace("http://127.0.0.1:8080", url) for word in shlex.split(command)]
    if shutil.which("curl") is None:
        # curl is no requirement of the tests; what it would send is.
        method = words.pop(words.index("-X") + 1) if "-X" in words else "POST"
        program, silent, target, *rest = (word for word in words if word != "-X")
        assert (program, silent) == ("curl", "-s")
        if not rest:
            return call(url, "GET", target.removeprefix(url)).body
        flag, body = rest
        assert flag == "-d"
        return call(url, method, target.removeprefix(url), body.encode()).body
    done = subprocess.run(words, check=True, capture_output=True, timeout=30)
    return json.loads(done.stdout)


def run_all(url: str) -> dict[str, Any]:
    """Every example's answer; after the feedback it waits until the served model has learned it."""
    answers = {}
    for name, (command, _) in examples().items():
        answers[name] = run(command, url)
        learned = LEARNED.get(name)
        if learned is not None:
            wait_for(
                lambda learned=learned: call(url, "GET", "/v1/model").body["learned_slots"] == learned,  # type: ignore[misc]
                what="the learned model",
            )
    return answers


def _shown(answer: dict[str, Any]) -> str:
    """JSON with one line for each slot and the like."""
    lines = []
    for name, value in answer.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            slots = ",\n  ".join(json.dumps(slot) for slot in value)
            lines.append(f'"{name}": [\n  {slots}]')
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
