"""The guide's table of policies over feeds is whole, and every example in it is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from replay.errors import BadPolicy
from replay.policies import parse_policy

GUIDE = Path(__file__).parents[2] / "docs" / "evaluating.md"
ROWS = [
    [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
    for line in GUIDE.read_text("utf-8").splitlines()
    if line.startswith(("| `caller`", "| `config:", "| `feed:"))
]


def test_there_is_a_table() -> None:
    assert {row[0] for row in ROWS} == {"caller", "config:VERSION", "feed:MODEL"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[3])
def test_every_example_is_a_policy_and_uses_its_key(row: list[str]) -> None:
    spec, key, _, example = row
    assert example.startswith(spec.partition(":")[0])
    assert not key or f",{key}=" in example
    assert parse_policy(f"new={example}").spec == example


@pytest.mark.parametrize("spec", ["caller", "feed:MODEL"])
def test_every_key_that_is_allowed_is_in_the_table(spec: str) -> None:
    with pytest.raises(BadPolicy, match="allowed are") as refused:
        parse_policy(f"new={spec},nonsense=1")
    allowed = refused.value.message.partition("allowed are ")[2].split(", ")
    assert sorted(allowed) == sorted(row[1] for row in ROWS if row[0] == spec and row[1])
