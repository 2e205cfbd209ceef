"""Reading ahead changes nothing but the time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from replay.prefetch import prefetched


@pytest.mark.parametrize("ahead", [1, 2, 7])
@pytest.mark.parametrize("n", [0, 1, 20])
def test_the_same_things_come_in_the_same_order(n: int, ahead: int) -> None:
    assert list(prefetched(range(n), ahead)) == list(range(n))


def test_what_the_source_raises_is_raised_after_what_came_before() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    got: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        got.extend(prefetched(source()))
    assert got == [1]


def test_the_source_is_left_alone_when_nobody_asks_any_more() -> None:
    made = []

    def source() -> Iterator[int]:
        for each in range(1_000):
            made.append(each)
            yield each

    things = prefetched(source(), 2)
    assert next(things) == 0
    things.close()
    assert len(made) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_no_more_is_made_ahead_than_was_said() -> None:
    made = threading.Semaphore(0)

    def source() -> Iterator[int]:
        for each in range(10):
            made.release()
            yield each

    things = prefetched(source(), 3)
    next(things)
    # One is here, three wait in the queue, and one waits to be put there.
    for _ in range(5):
        assert made.acquire(timeout=5)
    assert not made.acquire(timeout=0.3)
    things.close()
