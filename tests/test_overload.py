"""Four times what a worker can answer: what is answered is answered soon and kept, the rest is refused at once.

How soon, `make bench ARGS="--only overload"` says, on a machine that does nothing else.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.doors import Stress, Told, recovery_of, stress
from tests.bench.load import compiler
from tests.bench.session import QUICK, Session


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Stress:
    if compiler() is None:
        pytest.skip("the load generator needs a C compiler")
    folder: Path = tmp_path_factory.mktemp("overload")
    return stress(Session(folder, QUICK), seconds=5.0, measure_s=2.0)


def test_what_cannot_be_answered_in_time_is_refused(found: Stress) -> None:
    assert found.refused_share > 0.25
    # Refusing is cheap: what can be answered still is.
    assert found.accepted_per_s > 0.4 * found.saturation


def test_what_is_answered_is_answered_soon(found: Stress) -> None:
    # Without turns that end, the queue grows for as long as the overload lasts: 5 s here.
    assert found.loaded["p99"] < max(20 * found.unloaded["p99"], 500_000)
    assert found.loaded["max"] < 3_000_000


def test_nothing_that_was_acknowledged_is_lost(found: Stress) -> None:
    assert found.loaded["errors"] == 0
    assert found.lost == 0


def test_health_is_answered_meanwhile(found: Stress) -> None:
    assert found.health_s < 5


def test_it_is_over_when_it_is_over(found: Stress) -> None:
    assert found.recovery_s < 3
    assert found.growth < 1.3


def heard(*, refused_until: float = 0.0, slow_until: float = 0.0) -> list[Told]:
    """Rankings of 10 ms, 100 a second for 6 s; refused, or slow, up to some second."""
    found = []
    for k in range(600):
        due = k / 100
        if due < refused_until:
            found.append(Told("S", 50.0 + due, "", 50.0 + due))
        else:
            found.append(Told("R", 50.0 + due + (1.0 if due < slow_until else 0.01), f"e{k}", 50.0 + due))
    return found


def test_recovery_is_the_first_second_that_is_as_before() -> None:
    assert recovery_of(heard(), 50.0, 0.01) == 0.0
    assert recovery_of(heard(refused_until=1.5), 50.0, 0.01) == 1.5
    assert 2.0 <= recovery_of(heard(slow_until=2.5), 50.0, 0.01) <= 2.6
    assert recovery_of(heard(slow_until=9.0), 50.0, 0.01) == float("inf")
    assert recovery_of(heard(refused_until=9.0), 50.0, 0.01) == float("inf")
