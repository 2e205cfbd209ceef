"""Turns of a worker: a burst may wait, a standing queue is cut, and turns are never lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from bandit.errors import Overloaded
from bandit.web.admission import STANDING, Admission
from tests.service import wait_for


class Held:
    """A turn that somebody has until told otherwise."""

    def __init__(self, admission: Admission) -> None:
        self._free = threading.Event()
        self._taken = threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(admission,))
        self._thread.start()
        assert self._taken.wait(5)

    def _hold(self, admission: Admission) -> None:
        with admission.turn():
            self._taken.set()
            self._free.wait(30)

    def free(self) -> None:
        self._free.set()
        self._thread.join()


def take(admission: Admission) -> str:
    """How an attempt ended."""
    try:
        with admission.turn():
            return "answered"
    except Overloaded as error:
        return "full" if "wait already" in error.message else error.message.partition("within ")[2].partition(" ms")[0]


def test_whoever_finds_a_turn_free_takes_it() -> None:
    assert (Overloaded.status, Overloaded.retry_after_s) == (503, 1)
    admission = Admission(2, waiting=0, wait_s=0.0)
    for _ in range(10):
        with admission.turn(), admission.turn():
            assert take(admission) == "full"


def test_more_than_may_wait_are_refused_at_once_and_the_others_have_their_turn() -> None:
    admission = Admission(1, waiting=3, wait_s=30.0)
    held = Held(admission)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(take, admission) for _ in range(3)]
        wait_for(lambda: take(admission) == "full", what="a full queue")
        held.free()
        assert [one.result(10) for one in waiting] == ["answered"] * 3
    assert take(admission) == "answered"


def test_who_waits_too_long_is_refused_and_takes_no_turn_with_him() -> None:
    admission = Admission(1, waiting=3, wait_s=0.02)
    held = Held(admission)
    assert take(admission) == "20"
    held.free()
    for _ in range(3):
        assert take(admission) == "answered"


def test_a_turn_comes_back_whatever_happens_in_it() -> None:
    admission = Admission(1, waiting=0, wait_s=0.0)
    for _ in range(3):
        with pytest.raises(ValueError, match="fault"), admission.turn():
            raise ValueError("fault")


@pytest.fixture
def clocked() -> tuple[Admission, Callable[[float], None]]:
    now = 0.0

    def pass_(seconds: float) -> None:
        nonlocal now
        now += seconds

    return Admission(1, waiting=8, wait_s=0.2, monotonic=lambda: now), pass_


def test_a_queue_that_stands_is_cut_and_one_that_was_empty_is_not(
    clocked: tuple[Admission, Callable[[float], None]],
) -> None:
    admission, pass_ = clocked
    held = Held(admission)
    with ThreadPoolExecutor(1) as pool:
        # Somebody waits all the time, by a clock that stands still for them.
        pass_(10.0)
        first = pool.submit(take, admission)
        wait_for(lambda: admission._waiting == 1, what="one that waits")
        pass_(0.19)
        assert take(admission) == "200", "a burst"
        assert first.result(5) == "200"
        first = pool.submit(take, admission)
        wait_for(lambda: admission._waiting == 1, what="one that waits")
        pass_(0.21)
        assert take(admission) == f"{200 * STANDING:g}", "it has stood for longer than anybody may wait"
        assert first.result(5) == "200"
        assert take(admission) == "200", "it was empty a moment ago"
    held.free()


def test_the_log_hears_of_refusals_now_and_then(
    clocked: tuple[Admission, Callable[[float], None]], caplog: pytest.LogCaptureFixture
) -> None:
    admission, pass_ = clocked
    admission._most = 0
    with admission.turn(), caplog.at_level(logging.WARNING):
        for _ in range(100):
            take(admission)
        assert len(caplog.records) == 1
        pass_(11.0)
        take(admission)
    assert "100 requests refused" in caplog.records[1].getMessage()
