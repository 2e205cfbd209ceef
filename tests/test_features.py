"""Resolved features: what VW sees, bit for bit, and what is refused."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from vowpalwabbit.pyvw import Workspace, pylibvw

from bandit.errors import InvalidFeatures
from bandit.features.hashing import HashedFeatures, hash_item, hash_resolved, murmur3, resolve_item, resolve_shared
from bandit.features.item_table import ItemTable, TableFull, TableView, parse_features
from bandit.features.model_args import FIXED
from bandit.features.tokenizer import hash_object, new_work

BITS = 22
MASK = (1 << BITS) - 1

# Everything that text formats trip over: VW's separators, quotes, escapes, digits, several scripts.
alphabet = st.sampled_from("ab Z09_|:\"\\\n\t\r/'{}[],é ß日\U0001f600\x7f\u2028\x01") | st.characters(
    exclude_categories=["Cs"], exclude_characters="\0"
)
texts = st.text(alphabet, max_size=12)
names = st.text(alphabet, min_size=1, max_size=8).filter(lambda name: name[0] != "_")
numbers = (
    st.floats(-1e6, 1e6, width=64)
    | st.floats(-1e6, 1e6, width=32)
    | st.integers(-1_000_000, 1_000_000)
    | st.decimals(-1000, 1000, places=2).map(float)
    | st.floats(-1e-30, 1e-30)
)
scalars = texts | numbers | st.booleans()
values = scalars | st.lists(texts, max_size=4)
spaces = st.builds(str.__add__, st.sampled_from("abCISU059z"), st.text(alphabet, max_size=4)).filter(
    lambda name: name not in "UCISDP"
)
feature_sets = st.builds(
    lambda own, nested: own | nested,
    st.dictionaries(names, values, max_size=6),
    st.dictionaries(spaces, st.dictionaries(names, values, max_size=4), max_size=3),
)


@pytest.fixture(scope="module")
def vw() -> Iterator[Workspace]:
    workspace = Workspace(f"{FIXED} -b {BITS}")
    yield workspace
    workspace.finish()


def seen_by_vw(vw: Workspace, text: bytes, *, shared: bool = False) -> list[tuple[int, int, float]]:
    """(letter, masked index, value) of one resolved text as VW's JSON parser reads it, sorted by letter."""
    action = text.decode() if not shared else '{"I":{"x":1}}'
    around = text[1:-1].decode() + "," if shared and len(text) > 2 else ""
    examples = vw.parse(f'{{{around}"_multi":[{action}]}}')
    stride = pylibvw.vw.get_stride(vw)
    example = examples[0 if shared else 1]
    found = []
    for n in range(pylibvw.example.num_namespaces(example)):
        letter = pylibvw.example.namespace(example, n)
        letter = letter if isinstance(letter, int) else ord(letter)
        if letter in (128, -128):  # the constant
            continue
        for k in range(pylibvw.example.num_features_in(example, letter)):
            index = pylibvw.example.feature(example, letter, k) // stride
            found.append((letter, index & MASK, pylibvw.example.feature_weight(example, letter, k)))
    vw.finish_example(examples)
    return sorted(found, key=lambda one: one[0])


def plain(hashed: HashedFeatures) -> list[tuple[int, int, float]]:
    return [
        (int(c), int(i) & MASK, float(v))
        for c, i, v in zip(hashed.letters, hashed.idx, hashed.val, strict=True)
    ]


def row_of(view: TableView, row: int) -> HashedFeatures:
    first, last = view.row_segment[row], view.row_segment[row + 1]
    start, stop = view.segment_start[first], view.segment_start[last]
    lengths = np.diff(view.segment_start[first : last + 1])
    return HashedFeatures(
        np.repeat(view.segment_letter[first:last], lengths), view.idx[start:stop], view.val[start:stop]
    )


def same(a: HashedFeatures, b: HashedFeatures) -> bool:
    pairs: Any = zip(a, b, strict=True)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def test_murmur3_is_the_published_one():
    assert murmur3(b"") == 0
    assert murmur3(b"hello") == 613153351
    assert murmur3(b"The quick brown fox jumps over the lazy dog", 0x9747B28C) == 0x2FA826CD


def test_every_hash_equals_vws(vw: Workspace):
    @settings(max_examples=250, deadline=None)
    @given(texts.filter(bool), feature_sets, st.booleans())
    def check(item_id: str, features: dict[str, Any], traits: bool) -> None:
        try:
            text = resolve_item(item_id, features, traits=traits)
        except InvalidFeatures:
            assume(False)
        hashed = hash_resolved(text)
        assert plain(hashed) == seen_by_vw(vw, text)
        assert same(hashed, hash_item(item_id, features, traits=traits))
        table = ItemTable(1, traits=traits)
        table.add([item_id], [msgspec.json.encode(features)])
        assert same(hashed, row_of(table.view(), 0))

    check()


def test_every_shared_hash_equals_vws(vw: Workspace):
    @settings(max_examples=100, deadline=None)
    @given(texts.filter(bool) | st.none(), feature_sets, feature_sets, st.integers(0, 99))
    def check(user_id: str | None, user: dict[str, Any], context: dict[str, Any], slot: int) -> None:
        try:
            text = resolve_shared(user_id, user, context, slot)
        except InvalidFeatures:
            assume(False)
        assert plain(hash_resolved(text)) == seen_by_vw(vw, text, shared=True)

    check()


@settings(max_examples=300, deadline=None)
@given(numbers)
def test_numbers_are_rounded_once_to_float32(number: float):
    (expected,) = struct.unpack("<f", struct.pack("<f", number))
    hashed = hash_item("v", {"x": number})
    assert sorted(hashed.val) == sorted([1.0, expected] if expected else [1.0])


@settings(max_examples=60, deadline=None)
@given(feature_sets, st.randoms(use_true_random=False))
def test_order_of_features_is_irrelevant(features: dict[str, Any], random: Any):
    def shuffled(members: dict[str, Any]) -> dict[str, Any]:
        keys = list(members)
        random.shuffle(keys)
        return {
            key: shuffled(members[key]) if isinstance(members[key], dict) else members[key] for key in keys
        }

    try:
        text = resolve_item("v", features)
    except InvalidFeatures:
        assume(False)
    assert resolve_item("v", shuffled(features)) == text


def test_resolved_text_is_canonical():
    features: dict[str, Any] = {"b": 1.0, "sound": "x", "no": False, "zero": 0.0, "n": {"z": 0.1}}
    assert resolve_item("v1", features) == b'{"I":{"b":1,"id":"v1","sound":"x"},"n":{"z":0.1}}'
    assert resolve_item("v1", features, traits=True) == b'{"F":{"b":1},"I":{"id":"v1","sound":"x"},"n":{"z":0.1}}'
    assert resolve_shared(None, {}, {}) == b'{"S":{"slot":"0"}}'
    assert resolve_shared("u", {"geo": {"x": 1}}, {"geo": {"y": 2}, "id": "kept"}, 3) == (
        b'{"C":{"id":"kept"},"S":{"slot":"3"},"U":{"id":"u"},"geo":{"x":1,"y":2}}'
    )


def test_a_list_is_a_set_as_vw_tells_its_elements_apart():
    once = resolve_item("v", {"tags": ["a b", "c"]})
    assert once == b'{"I":{"id":"v","tagsa_b":true,"tagsc":true}}'
    assert resolve_item("v", {"tags": ["c", "a b", "a_b", "c", "a|b"]}) == once
    assert resolve_item("v", {"tags": []}) == b'{"I":{"id":"v"}}'


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"x": float("nan")}, "features.x"),
    ({"x": float("inf")}, "features.x"),
    ({"x": 1e308}, "features.x"),
    ({"x": -1_000_001}, "features.x"),
    ({"geo": {"x": 10**400}}, "features.geo.x"),
    ({"x": "a\0b"}, "features.x"),
    ({"x": "\ud800"}, "features.x"),
    ({"\udfffx": 1}, "features.\\udfffx"),
    ({"x": ["ok", "\ud800"]}, "features.x[1]"),
    ({"x": ["ok", 3]}, "features.x[1]"),
    ({"": 1}, "features"),
    ({"_label": 1}, "features._label"),
    ({"geo": {"_x": 1}}, "features.geo._x"),
    ({"a\0": 1}, "features.a\0"),
    ({"x" * 257: 1}, "features." + "x" * 40),
    ({"x": "y" * 257}, "features.x"),
    ({"x": {"y": {"z": 1}}}, "features.x.y"),
    ({"x": None}, "features.x"),
    ({"x": [["y"]]}, "features.x[0]"),
    ({"U": {"x": 1}}, "features.U"),
    ({"I": {}}, "features.I"),
    ({"é": {"x": 1}}, "features.é"),
    ({" ": {"x": 1}}, "features. "),
    ({"|": {"x": 1}}, "features.|"),
    ({"_geo": {"x": 1}}, "features._geo"),
    ({"id": "other"}, "features.id"),
    ({"moods": ["a"], "moodsa": 1}, "features.moodsa"),
    ({"tags": ["a"], "tagsa": 1}, "features.tagsa"),
    ({f"f{k}": 1 for k in range(513)}, "features"),
    ({"tags": [str(k) for k in range(513)]}, "features"),
]


#: Where an item's traits stand apart, the namespace that they stand in is taken; and tags are not beside them.
APART = [({"F": {}}, "features.F"), *(one for one in REFUSED if one[1] != "features.tagsa")]


@pytest.mark.parametrize(
    ("features", "path", "traits"), [*((*one, False) for one in REFUSED), *((*one, True) for one in APART)]
)
def test_what_vw_would_misread_is_refused_by_path(features: dict[str, Any], path: str, traits: bool):
    with pytest.raises(InvalidFeatures) as slow:
        resolve_item("v", features, traits=traits)
    assert slow.value.detail["path"] == path
    slow.value.message.encode()
    msgspec.json.encode(slow.value.detail)
    raw = json.dumps(features).encode()
    table = ItemTable(8, traits=traits)
    table.add(["before"], [b"{}"])
    with pytest.raises(InvalidFeatures) as fast:
        table.add(["fine", "v"], [b"{}", raw], places=[4, 7])
    if b"NaN" not in raw and b"Infinity" not in raw:
        assert fast.value.detail["path"] == "candidates[7]." + path
    assert len(table) == table.view().n_rows == 1


def test_shared_refusals_name_the_part():
    with pytest.raises(InvalidFeatures, match=r"user\.features\.x"):
        resolve_shared("u", {"x": float("nan")}, {})
    with pytest.raises(InvalidFeatures, match=r"context\.geo\.x is given twice"):
        resolve_shared("u", {"geo": {"x": 1}}, {"geo": {"x": 2}})
    with pytest.raises(InvalidFeatures, match=r"user\.id"):
        resolve_shared("u\0", {}, {})
    with pytest.raises(InvalidFeatures, match=r"context\.F"):
        resolve_shared("u", {}, {"F": {"x": 1}}, traits=True)
    assert resolve_shared("u", {}, {"F": {"x": 1}}) == b'{"F":{"x":1},"S":{"slot":"0"},"U":{"id":"u"}}'


# -- the fast path ------------------------------------------------------------------------------


@st.composite
def written_numbers(draw: st.DrawFn) -> str:
    whole = draw(st.integers(-(10**7), 10**7) | st.integers(-999, 999))
    fraction = draw(st.just("") | st.text("0123456789", min_size=1, max_size=20).map(".".__add__))
    exponent = draw(st.sampled_from(["", "", "", "e3", "E+2", "e-5", "e-30", "e20"]))
    return f"{whole}{fraction}{exponent}"


quoted = st.builds(json.dumps, texts, ensure_ascii=st.booleans())
plain_keys = ["a", "b", "ab", "geo", "I", "F", "tags", "creator", "sound", "group", "id", "_x", "a\\u0062"]
keys = st.sampled_from([f'"{key}"' for key in plain_keys]) | quoted
blanks = st.sampled_from(["", "", "", " ", "\n", " \t\r"])


def _object(members: list[tuple[str, str]], blank: str) -> str:
    return "{" + f"{blank},".join(f"{blank}{key}{blank}:{value}" for key, value in members) + blank + "}"


written_scalars = (
    quoted
    | written_numbers()
    | st.sampled_from(["true", "false", "null", "[]", "{}"])
    | st.builds(
        lambda parts, blank: f"[{blank}{f'{blank},'.join(parts)}]", st.lists(quoted, max_size=3), blanks
    )
)
# JSON as clients write it: any spacing, escapes, names twice, nesting too deep.
written_objects = st.recursive(
    st.builds(_object, st.lists(st.tuples(keys, written_scalars), max_size=5), blanks),
    lambda inner: st.builds(_object, st.lists(st.tuples(keys, written_scalars | inner), max_size=4), blanks),
    max_leaves=3,
)


@settings(max_examples=400, deadline=None)
@given(texts.filter(bool), written_objects, st.booleans())
def test_fast_and_slow_agree_on_any_text(item_id: str, text: str, traits: bool):
    raw = text.encode()
    expected: HashedFeatures | str
    try:
        expected = hash_item(item_id, parse_features(raw), traits=traits, path="candidates[0].features")
    except InvalidFeatures:
        expected = "refused"
    table = ItemTable(4, traits=traits)
    try:
        table.add([item_id], [raw])
        found: HashedFeatures | str = row_of(table.view(), 0)
    except InvalidFeatures:
        found = "refused"
    assert isinstance(found, str) == isinstance(expected, str)
    if isinstance(found, HashedFeatures) and isinstance(expected, HashedFeatures):
        assert same(found, expected)


@settings(max_examples=200, deadline=None)
@given(written_numbers())
def test_fast_numbers_are_rounded_as_slow_ones(text: str):
    raw = f'{{"x":{text}}}'.encode()
    assume(abs(float(text)) <= 1e6)
    table = ItemTable(1)
    table.add(["v"], [raw])
    assert same(row_of(table.view(), 0), hash_item("v", {"x": float(text)}))


@pytest.mark.parametrize(
    "raw",
    [
        '{"creator":"c9","genre":"g1","len":12.5,"new":true,"old":false,"n":3}',
        '{ "tags" : [ "a" , "b c" ] , "sound" : { "bpm" : 120 , "tags":["x"] } }',
        '{"title":"Übermut 日本"}',
        '{"x":0.30000000000000004,"y":1.7976931348623157e-5,"z":-0.0}',
        "{}",
    ],
)
@pytest.mark.parametrize("traits", [False, True])
def test_ordinary_features_take_the_fast_path(raw: str, traits: bool):
    letters, idx, val = np.empty(64, np.uint8), np.empty(64, np.uint32), np.empty(64, np.float32)
    data, ids = np.frombuffer(raw.encode(), np.uint8), np.frombuffer(b"v1", np.uint8)
    n: int = hash_object(data, 0, len(data), ids, 0, 2, False, traits, new_work(), letters, idx, val, 0)
    assert n > 0
    assert same(HashedFeatures(letters[:n], idx[:n], val[:n]), hash_item("v1", json.loads(raw), traits=traits))


def test_invalid_utf8_and_broken_json_are_refused():
    for raw in (b'{"x":"\xff"}', b'{"x":', b"[1]", b'"x"', b'{"x":1e999}', b"{" * 100_000, b'{"x":NaN}'):
        with pytest.raises(InvalidFeatures, match=r"candidates\[0\]"):
            ItemTable(1).add(["v"], [raw])


# -- the table ----------------------------------------------------------------------------------


def test_a_view_never_changes_while_the_table_grows():
    table = ItemTable(20_000)
    table.add([f"v{k}" for k in range(500)], [b'{"a":"x","s":{"b":%d}}' % k for k in range(500)])
    view = table.view()
    row_segment = view.row_segment[:501].copy()
    expected = [row_of(view, row) for row in range(500)]
    rows = [table.add([f"w{k}-{j}" for j in range(100)], [b'{"q":true}'] * 100) for k in range(150)]
    assert np.array_equal(np.concatenate(rows), np.arange(500, 15_500))
    assert view.n_rows == 500
    for row in range(500):
        assert same(row_of(view, row), expected[row])
        assert same(row_of(table.view(), row), expected[row])
    assert np.array_equal(view.row_segment[:501], row_segment)


def test_a_full_table_says_how_much_room_is_left():
    table = ItemTable(3)
    assert table.add(["a", "b"], [b"{}", b""]).tolist() == [0, 1]
    with pytest.raises(TableFull) as full:
        table.add(["c", "d"], [b"{}", b"{}"])
    assert full.value.room == 1
    assert table.add(["c"], [b"{}"]).tolist() == [2]


def test_memory_is_bounded_by_features_too_but_any_first_batch_fits():
    wide = json.dumps({f"f{k}": 1 for k in range(400)}).encode()
    table = ItemTable(100)
    table.add([f"v{k}" for k in range(20)], [wide] * 20)
    with pytest.raises(TableFull):
        table.add(["w"], [wide])
    assert len(table) == 20


def test_several_threads_may_add():
    table = ItemTable(4000)
    rows: dict[str, int] = {}

    def work(thread: int) -> None:
        for k in range(100):
            ids = [f"t{thread}-{k}-{j}" for j in range(10)]
            added = table.add(ids, [b'{"x":"%d"}' % j for j in range(10)])
            rows.update(zip(ids, added.tolist(), strict=True))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    view = table.view()
    assert sorted(rows.values()) == list(range(4000))
    for item_id in ("t0-0-0", "t3-99-9", "t2-50-5"):
        assert same(row_of(view, rows[item_id]), hash_item(item_id, {"x": item_id[-1]}))
