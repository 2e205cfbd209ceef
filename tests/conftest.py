"""What every test gets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

if not os.environ.get("CI"):  # There Hypothesis brings a profile of its own: the same examples every time.
    settings.register_profile("here", deadline=None)  # A busy machine is no failure.
    settings.load_profile("here")

_GRACE_S = 2.0


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fails a test that leaves threads running: they would trouble later tests, unnamed."""
    before = set(threading.enumerate())
    yield
    give_up_at = time.monotonic() + _GRACE_S
    leaked = [t for t in threading.enumerate() if t not in before]
    for thread in leaked:
        thread.join(timeout=max(0.0, give_up_at - time.monotonic()))
    alive = [t.name for t in leaked if t.is_alive()]
    assert not alive, f"threads left running: {alive}; close what the test opened"
