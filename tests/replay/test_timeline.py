"""Stretches of time: never many, none lost, the same however the log was cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.events import Batch
from replay.sums import Sums
from replay.terms import term_set
from replay.timeline import LENGTHS, MOST, Timeline


def make_sums() -> Sums:
    return Sums(term_set(), n_buckets=16, table=False, top=1)


def batch_of(n: int, start: int = 0) -> Batch:
    columns = np.arange(start, start + n)
    return Batch(
        starts=np.arange(n + 1),
        item=columns.astype(np.uint64),
        chosen=np.zeros(n, np.int64),
        propensity=np.ones(n),
        reward=columns.astype(float),
        n_candidates=np.ones(n, np.int64),
        viewer=columns.astype(np.uint64),
        time=np.full(n, np.nan),
        place=columns + 1,
    )


def filled(timeline: Timeline, times: np.ndarray, start: int = 0) -> Timeline:
    batch = batch_of(len(times), start)
    for sums, rows in timeline.parts(times):
        sums.add(batch, np.ones(len(times)), rows=rows)
    return timeline


def told(timeline: Timeline) -> list[tuple[float, float, int, float]]:
    return [(s.start, s.length, s.sums.n, s.sums.mean("y") * s.sums.n) for s in timeline.stretches()]


@pytest.mark.parametrize("span_s", [30, 3_000, 86_400, 40 * 86_400, 20 * 365 * 86_400])
def test_there_are_never_many_and_every_event_is_in_one(span_s: int) -> None:
    times = np.linspace(1.7e9, 1.7e9 + span_s, 500)
    found = told(filled(Timeline(make_sums), times))
    assert len(found) <= MOST
    assert sum(n for _, _, n, _ in found) == 500
    assert sum(total for *_, total in found) == pytest.approx(sum(range(500)))
    assert all(start % length == 0 for start, length, _, _ in found)


def test_events_belong_to_the_stretch_that_holds_their_time() -> None:
    found = told(filled(Timeline(make_sums), np.array([0.0, 59.9, 60.0, 200.0])))
    assert found == [(0.0, 60, 2, 1.0), (60.0, 60, 1, 2.0), (180.0, 60, 1, 3.0)]


def test_events_without_a_time_are_in_none() -> None:
    found = told(filled(Timeline(make_sums), np.array([np.nan, 5.0, np.inf])))
    assert found == [(0.0, 60, 1, 1.0)]
    assert told(filled(Timeline(make_sums), np.array([np.nan]))) == []


def test_each_length_divides_the_next() -> None:
    assert all(longer % shorter == 0 for shorter, longer in pairwise(LENGTHS))


@given(
    times=st.lists(st.floats(0, 4e8), min_size=1, max_size=80),
    cut=st.integers(0, 80),
    order=st.randoms(use_true_random=False),
)
def test_cut_and_merged_or_in_another_order_it_is_the_same(times: list[float], cut: int, order) -> None:
    whole = told(filled(Timeline(make_sums), np.array(times)))
    cut = min(cut, len(times))
    first, second = Timeline(make_sums), Timeline(make_sums)
    filled(first, np.array(times[:cut]))
    filled(second, np.array(times[cut:]), start=cut)
    assert told(first.merge(second)) == whole
    assert told(second.merge(first)) == whole
    assert sorted((s, length, n) for s, length, n, _ in told(filled(Timeline(make_sums), np.array(times[::-1])))) == [
        (s, length, n) for s, length, n, _ in whole
    ]
