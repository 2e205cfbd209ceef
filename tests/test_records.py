"""Types that many threads use for the first time at the same moment."""

from __future__ import annotations

import subprocess
import sys

from tests.service import ROOT

# In a process of its own: without the lock in `records`, msgspec 0.22 ends it with a segmentation fault, mostly
# within the first few of these types.
MANY_FIRST_USES = """
import sys, threading
import msgspec
from bandit import records
sys.setswitchinterval(1e-6)
for number in range(150):
    fields = [(f"f{k}", int | str, 0) for k in range(30)]
    inner = msgspec.defstruct(f"Inner{number}", fields)
    outer = msgspec.defstruct(f"Outer{number}", [("one", inner), ("many", list[inner])])
    barrier = threading.Barrier(8)

    def first_use():
        barrier.wait()
        records.decode(b'{"one": {"f1": 1}, "many": [{"f2": 2}]}', outer)

    threads = [threading.Thread(target=first_use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_a_types_first_use_by_many_threads_at_once_is_survived() -> None:
    done = subprocess.run([sys.executable, "-c", MANY_FIRST_USES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
