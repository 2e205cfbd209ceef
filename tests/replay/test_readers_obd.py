"""The Open Bandit Dataset's CSV."""

from __future__ import annotations

import numpy as np
import pytest

from replay.errors import BadLog
from replay.events import Needs
from replay.readers import open_log
from tests.replay.logs import ALL, whole

HEAD = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3"
HEAD += ",user-item_affinity_0,user-item_affinity_1,user-item_affinity_2"
ROWS = [
    "0,2019-11-24 00:00:17.004101+00:00,2,3,0,0.5,aa,bb,cc,dd,0,0,1.0",
    "1,2019-11-24 00:00:18+00:00,0,1,1,0.0625,ab,bb,cc,dd,0,0,0",
]
ITEMS = ",item_id,item_feature_0,item_feature_1\n0,0,-0.5,x\n1,1,0.25,y\n2,2,1,x\n"


def written(path, *rows, head=HEAD, items=ITEMS, name="men"):
    folder = path / name
    folder.mkdir()
    (folder / f"{name}.csv").write_text("\n".join([head, *(rows or ROWS)]) + "\n")
    if items:
        (folder / "item_context.csv").write_text(items)
    return folder


def test_each_row_is_a_decision(tmp_path):
    folder = written(tmp_path)
    for path in (folder, folder / "men.csv"):
        log = open_log(path)
        assert log.kind == "obd"
        assert log.reward_range == (0.0, 1.0)
        batch = whole(log, Needs(fields=("position", "user_feature_0", "user-item_affinity_0"), columns=("position",)))
        assert batch.single
        assert batch.item.tolist() == batch.chosen.tolist() == [2, 0]
        assert batch.reward.tolist() == [0.0, 1.0]
        assert batch.propensity.tolist() == [0.5, 0.0625]
        assert batch.n_candidates.tolist() == [3, 3]
        assert batch.time.tolist() == [1574553617.004101, 1574553618.0]
        assert batch.place.tolist() == [1, 2]
        assert batch.columns["position"].tolist() == [2.0, 0.0]
        assert {name: column.tolist() for name, column in batch.fields.items()} == {
            "position": ["3", "1"],
            "user_feature_0": ["aa", "ab"],
        }, "affinities have seen the click"


def test_texts_have_user_position_and_item(tmp_path):
    batch = whole(open_log(written(tmp_path)), ALL)
    assert batch.candidates.item.tolist() == [0, 1, 2] * 2
    assert batch.texts.shared[0] == (
        b'{"U":{"user_feature_0":"aa","user_feature_1":"bb","user_feature_2":"cc","user_feature_3":"dd"},'
        b'"C":{"position":"3"}}'
    )
    assert batch.texts.candidates[1] == b'{"_tag":"1","I":{"id":"1","item_feature_0":0.25,"item_feature_1":"y"}}'
    assert len(batch.texts.candidates) == 6


def test_items_are_counted_from_the_rows_where_nothing_lists_them(tmp_path):
    folder = written(tmp_path, items="")
    assert whole(open_log(folder)).n_candidates.tolist() == [3, 3]
    assert whole(open_log(folder, n_actions=7)).n_candidates.tolist() == [7, 7]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2,t,1,1,0,,aa,bb,cc,dd,0,0,0", "row 3: there is no propensity"),
        ("2,t,1,1,0,x,aa,bb,cc,dd,0,0,0", "row 3: there is no propensity"),
        ("2,t,1,1,0,nan,aa,bb,cc,dd,0,0,0", "row 3: there is no propensity"),
        ("2,t,1,1,0,0,aa,bb,cc,dd,0,0,0", "row 3: the propensity is 0"),
        ("2,t,1,1,0,1.5,aa,bb,cc,dd,0,0,0", "row 3: the propensity is 1.5"),
    ],
)
def test_a_propensity_that_cannot_be_is_an_error(tmp_path, row, said):
    with pytest.raises(BadLog) as error:
        whole(open_log(written(tmp_path, *ROWS, row)))
    assert said in error.value.message


def test_broken_rows_are_counted_or_fatal(tmp_path):
    odd = [
        "2,t,9,1,0,.5,aa,bb,cc,dd,0,0,0",
        "3,t,,1,0,.5,aa,bb,cc,dd,0,0,0",
        "4,t,1,1,maybe,.5,aa,bb,cc,dd,0,0,0",
        "5,t,1.5,1,1,.5,aa,bb,cc,dd,0,0,0",
        "6,t,1,1",
    ]
    folder = written(tmp_path, *ROWS, *odd, "7,t,1,,1,.5,,,,,0,0,0")
    log = open_log(folder)
    batch = whole(log, Needs(columns=("position",)))
    assert batch.n == 3
    assert np.isnan(batch.columns["position"][2])
    assert np.isnan(batch.time[2])
    assert sum(log.problems().counts.values()) == 5
    with pytest.raises(BadLog, match="row"):
        whole(open_log(folder, on_broken="fail"))


@pytest.mark.parametrize(
    ("head", "items", "said"),
    [
        (HEAD.replace("propensity_score", "p"), ITEMS, "has no column propensity_score; it has: timestamp"),
        (HEAD.replace("click", "x"), ITEMS, "has no column click"),
        (HEAD, ",item,feature\n0,0,1\n", "item_context.csv is no item context"),
        (HEAD, ",item_id\n0,0\n1,5\n", "item_id must be 0, 1, 2"),
        (HEAD, ",item_id\n0,x\n", "item_context.csv is no item context"),
    ],
)
def test_a_csv_of_another_kind_is_refused(tmp_path, head, items, said):
    with pytest.raises(BadLog) as error:
        open_log(written(tmp_path, head=head, items=items))
    assert said in error.value.message


def test_bytes_that_are_no_csv_are_refused(tmp_path):
    folder = written(tmp_path)
    for data in (
        b"\xff\xfe\x00,\n",
        b"a\n" * 5,
        b"\n\n\n",
        HEAD.encode() + b"\n",
        HEAD.encode() + b"\n\xff\xff,\x00\n",
    ):
        (folder / "men.csv").write_bytes(data)
        try:
            log = open_log(folder)
            assert sum(batch.n for batch in log.batches(Needs())) == 0
        except BadLog:
            continue
