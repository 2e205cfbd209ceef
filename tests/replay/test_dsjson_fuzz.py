"""Whatever stands in a dsjson file, it is read, counted or refused: never a traceback."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import BadLog
from replay.events import Needs
from replay.readers import open_log
from tests.replay.logs import ALL, cb, ccb

NEEDS = (Needs(), ALL, Needs(fields=("model", "country", "User.age"), columns=("pdrop", "x")))

NAMES = ["_multi", "_slots", "_a", "_p", "_id", "m", "v", "x", "I", "id"]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([0, 1, -1, 0.5, "1", 1e308, 2**63, 2**64, -(2**70), "NaN"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["_multi", "_slots", "_a", "_p", "_id", "m", "v", "x", "I", "id"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = sorted({*cb(), *ccb(), "pdrop", "_skipLearn", "_deferred", "_viewer", "_replay", "RewardValue", "Index", "v"})


def read_all(data: bytes) -> dict[str, list[int]]:
    """Places of the events by needs; all that may be raised is BadLog."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "log.json"
        path.write_bytes(data)
        for outcomes in ("label", "sum"):
            for needs in NEEDS:
                try:
                    log = open_log(path, kind="dsjson", outcomes=outcomes)
                    found[f"{outcomes} {needs}"] = [p for batch in log.batches(needs) for p in batch.place.tolist()]
                    assert len(log.problems().examples) <= 5
                except BadLog:
                    continue
            # What cannot be read only shows where it is asked for.
            by_needs = [found.get(f"{outcomes} {needs}") for needs in NEEDS]
            if by_needs[0] is not None:
                assert all(set(places or ()) <= set(by_needs[0]) for places in by_needs)
    return found


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(data):
    read_all(data)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_random_bytes_in_gzip_cut_anywhere(data, end):
    read_all(gzip.compress(json.dumps(cb()).encode() + b"\n" + data)[:end])


@settings(max_examples=250, deadline=None)
@given(st.booleans(), st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=3))
def test_members_of_any_type(feed, changes):
    line = {**(ccb() if feed else cb()), **changes}
    read_all(b"\n".join([json.dumps(cb()).encode(), json.dumps(line).encode(), json.dumps(ccb()).encode()]))


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.integers(0, 700), st.integers(0, 5), st.binary(max_size=4))
def test_lines_with_bytes_cut_out_or_put_in(feed, at, length, inserted):
    text = json.dumps(ccb() if feed else cb()).encode()
    read_all(text[:at] + inserted + text[at + length :] + b"\n" + json.dumps(cb()).encode())


def test_nested_beyond_all_measure_and_huge_numbers():
    deep = b"[" * 200_000 + b"]" * 200_000
    lines = [
        b'{"_label_cost":0,"_label_probability":1,"_labelIndex":0,"c":{"x":%s,"_multi":[{}]}}' % deep,
        b'{"_label_cost":0,"_label_probability":1,"_labelIndex":0,"c":{"_multi":[{"x":%s}]}}' % deep,
        b'{"_label_cost":1e400,"_label_probability":1,"_labelIndex":0,"c":{"_multi":[{}]}}',
        b'{"_label_cost":0,"_label_probability":1,"_labelIndex":1e400,"c":{"_multi":[{}]}}',
        b'{"_label_cost":0,"_label_cost":-2,"_label_probability":1,"_labelIndex":0,"c":{"_multi":[{}],"_multi":[{},{}]}}',
    ]
    found = read_all(b"\n".join(lines))
    assert all(places == [5] for places in found.values())
    assert len(found) == 6
