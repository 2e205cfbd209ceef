"""Attributes of items: by fixed names, whatever else stands there."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from bandit.statistics.attribute_table import AttributeTable, attributes_of
from bandit.statistics.attributes import MAX_TAGS, attributes_of_item, key_of


def of(**features: object) -> tuple[str, bytes]:
    return "v1", msgspec.json.encode(features)


def test_every_attribute_is_found_by_its_name() -> None:
    item = attributes_of_item(*of(creator="c", sound="s", language="en", group="g", tags=["x", "y", "x"], length_s=12))
    assert item.item == key_of("item", "v1")
    assert item.identity == key_of("group", "g")
    assert (item.creator, item.sound, item.language) == tuple(
        key_of(role, value) for role, value in (("creator", "c"), ("sound", "s"), ("language", "en"))
    )
    assert item.tags == (key_of("tag", "x"), key_of("tag", "y"))
    assert item.length_s == 12.0


def test_without_a_group_an_item_is_its_own_kind() -> None:
    item = attributes_of_item("v1", b"{}")
    assert item.identity == item.item
    assert item[2:] == (0, 0, 0, 0.0, ())


@pytest.mark.parametrize(
    "features",
    [
        {"creator": 7, "sound": None, "tags": "x", "length_s": "12", "group": True, "language": ["en"]},
        {"creator": "", "tags": [3, None, ""], "length_s": -4},
        {"length_s": 1e9},
        {"creator": {"id": "c"}, "length_s": {"s": 3}},
    ],
)
def test_another_type_counts_as_missing(features: dict[str, object]) -> None:
    item = attributes_of_item(*of(**features))
    assert item.identity == item.item
    assert item[2:] == (0, 0, 0, 0.0, ())


def test_a_list_of_tags_is_bounded() -> None:
    assert len(attributes_of_item(*of(tags=[f"t{i}" for i in range(100)])).tags) == MAX_TAGS


def test_keys_never_meet_between_roles() -> None:
    assert len({key_of(role, "a") for role in ("item", "group", "creator", "sound", "language", "tag")}) == 6


def test_the_table_gathers_any_rows_in_any_order_while_it_grows() -> None:
    items = [
        (f"v{i}", msgspec.json.encode({"creator": f"c{i % 7}", "tags": [f"t{k}" for k in range(i % 4)]}))
        for i in range(3000)
    ]
    table = AttributeTable(10_000)
    parsed = [attributes_of_item(*item) for item in items]
    for start in range(0, 3000, 500):
        table.put(np.arange(start, start + 500, dtype=np.int32), parsed[start : start + 500])
    rows = np.random.default_rng(1).permutation(3000)[:1000].astype(np.int32)
    found = table.gather(rows)
    whole = attributes_of(items)
    assert found.creator.tolist() == whole.creator[rows].tolist()
    for place, row in enumerate(rows.tolist()):
        assert tuple(found.tags[found.tag_start[place] : found.tag_start[place + 1]].tolist()) == parsed[row].tags
