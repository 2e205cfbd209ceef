"""Tallies on disk: whatever is settled, and wherever settling was stopped, the same is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit.config import Settings
from bandit.errors import LogUnavailable
from bandit.statistics.folding import PACKED_TALLY, SEEN, SHOWN, TALLY_WIDTH, ChangedStatistics, Tally
from bandit.store import tallies as module
from bandit.store.data import DataDirectory
from bandit.store.log import Txn
from bandit.store.statistics import StoredEpoch, all_tallies, append_epoch, changed_tallies, top_items
from bandit.store.tallies import settle, unsettled_tallies


def end_epoch(data: DataDirectory, position: int, changed: dict[int, Tally], names: Mapping[int, str] = {}) -> None:
    packed = b"".join(PACKED_TALLY.pack(key, *changed[key]) for key in sorted(changed))
    changes = ChangedStatistics(packed, [], [], [(key, ("item", name)) for key, name in names.items()], [])
    data.log.append(lambda txn: append_epoch(txn, changes, StoredEpoch(position, float(position), f"{position:032x}")))


def tally(value: float) -> Tally:
    return [value + place for place in range(TALLY_WIDTH)]


STEPS = st.lists(
    st.one_of(
        st.dictionaries(st.integers(0, 12), st.floats(0, 1e6), max_size=8),
        st.just("settle"),
        st.integers(0, 3),  # Settling stops before this transaction of its own.
    ),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(steps=STEPS)
def test_what_is_known_does_not_depend_on_what_is_settled(
    steps: list[dict[int, float] | str | int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = DataDirectory(Settings(tmp_path_factory.mktemp("tallies"), durable=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SETTLED_AT_ONCE", 3)
        now: dict[int, Tally] = {}
        changed_at: dict[int, int] = {}
        position = 0
        for step in steps:
            if isinstance(step, dict):
                position += 10
                changed = {key: tally(value) for key, value in step.items()}
                end_epoch(data, position, changed)
                now |= changed
                changed_at |= dict.fromkeys(changed, position)
            elif isinstance(step, int):
                _stopped(data, step, patch)
            else:
                settle(data.log)
                assert unsettled_tallies(data.log) == []
            assert all_tallies(data.log) == now
            for after in range(0, position + 1, 10):
                found = changed_tallies(data.log, after=after, keys=[1, 7])
                assert found.epoch.position == position
                wanted = {key for key, at in changed_at.items() if at > after} | ({1, 7} & now.keys())
                assert found.tallies == {key: now[key] for key in wanted}
    data.close()


def _stopped(data: DataDirectory, after: int, patch: pytest.MonkeyPatch) -> None:
    left = after
    whole: Callable[[Callable[[Txn], None]], None] = data.log.append

    def append(write: Callable[[Txn], None]) -> None:
        nonlocal left
        if left == 0:
            raise LogUnavailable("the disk is full")
        left -= 1
        whole(write)

    with patch.context() as inner:
        inner.setattr(data.log, "append", append)
        with suppress(LogUnavailable):
            settle(data.log)


def test_each_tally_is_settled_once_however_many_epochs_changed_it(data: DataDirectory) -> None:
    for position in (10, 20, 30):
        end_epoch(data, position, {key: tally(position) for key in range(600)})
    assert settle(data.log) == 600
    assert settle(data.log) == 0
    assert data.log.query("SELECT count(*), min(epoch), max(epoch), min(shown) FROM tallies") == [(600, 30, 30, 30.0)]


def test_no_transaction_of_it_is_long(data: DataDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    end_epoch(data, 10, {key: tally(1.0) for key in range(1_000)})
    assert data.log.query("SELECT count(*) FROM tallies") == [(0,)], "an epoch writes one row"
    parts: list[int] = []
    put = module._put

    def counted(txn: Txn, rows: Sequence[tuple[Any, ...]]) -> None:
        parts.append(len(rows))
        put(txn, rows)

    monkeypatch.setattr(module, "_put", counted)
    settle(data.log)
    assert parts == [module.SETTLED_AT_ONCE] * 10


@pytest.mark.parametrize("settled", [False, True])
def test_the_top_items_are_those_of_the_newest_epoch(data: DataDirectory, settled: bool) -> None:
    names = {key: f"v{key}" for key in range(1, 6)}
    first, second = {key: tally(float(key)) for key in names}, {1: tally(9.0), 5: tally(0.5)}
    end_epoch(data, 10, first, names)
    settle(data.log)
    end_epoch(data, 20, second)
    if settled:
        settle(data.log)
    top = top_items(data.log, by="shown", limit=3)
    assert [(one.id, one.tally[SHOWN]) for one in top] == [("v1", 9.0), ("v4", 4.0), ("v3", 3.0)]
    earned = top_items(data.log, by="earned", limit=9, least_seen=3.5)
    assert {one.id for one in earned} == {"v1", "v4", "v3"}
    assert all(one.tally[SEEN] >= 3.5 for one in earned)
