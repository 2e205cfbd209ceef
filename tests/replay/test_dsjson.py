"""dsjson as Personalizer, learning-loop and VW's own tools write it."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import numpy as np
import pytest
import zstandard

from replay.errors import BadLog
from replay.events import Needs, hash_key, item_key
from replay.readers import open_log
from replay.readers.stamps import hash_texts
from tests.replay.logs import ALL, cb, ccb, whole, written


def test_a_decision_is_read_as_it_was_logged(tmp_path):
    batch = whole(open_log(written(tmp_path, cb())), Needs(fields=("model", "country", "User.age", "EventId", "none")))
    assert batch.n == batch.n_slots == 1
    assert batch.reward.tolist() == [1.0]
    assert batch.propensity.tolist() == [0.5]
    assert batch.chosen.tolist() == [1]
    assert batch.item.tolist() == [12]
    assert batch.n_candidates.tolist() == [3]
    assert batch.place.tolist() == [1]
    assert batch.time.tolist() == [1619457808.1726275]
    assert batch.viewer.tolist() == hash_texts(["e1"]).tolist()
    assert {name: column.tolist() for name, column in batch.fields.items()} == {
        "model": ["m1"],
        "country": ["de"],
        "User.age": ["3"],
        "EventId": ["e1"],
        "none": [""],
    }
    assert batch.candidates is None
    assert batch.texts is None


def test_candidates_and_texts_come_when_they_are_asked_for(tmp_path):
    batch = whole(open_log(written(tmp_path, cb(), cb(EventId="e2"))))
    assert batch.candidates.starts.tolist() == [0, 3, 6]
    assert batch.candidates.item.tolist() == [11, 12, 13] * 2
    assert batch.texts.shared == [
        b'{"User": {"id": "u7", "age": 3},"Geo": [{"country": "de"}]}'.replace(b": ", b":")
    ] * 2 or (batch.texts.shared[0].startswith(b'{"User":'))
    assert b"_multi" not in batch.texts.shared[0]
    assert batch.texts.candidates[:2] == [b'{"_tag": "11", "I": {"x": 1}}', b'{"_tag": "12", "I": {"x": 2}}']


@pytest.mark.parametrize(
    ("action", "key"),
    [
        ({"_tag": "7"}, 7),
        ({"_tag": "latte", "id": "x"}, item_key("latte")),
        ({"id": 9}, 9),
        ({"i": {"constant": 1, "id": "cp3"}}, item_key("cp3")),
        ({"j": [{"a": 1}, {"id": "5"}]}, 5),
        ({"j": [{"a": 1}]}, hash_key('{"j": [{"a": 1}]}')),
        ({"_tag": "#00000000000000ff"}, 255),
    ],
)
def test_an_item_is_named_by_its_tag_or_id_else_by_its_text(tmp_path, action, key):
    line = cb(c={"_multi": [action]}, _label_Action=1, _labelIndex=0, a=[1], p=[0.5])
    assert whole(open_log(written(tmp_path, line)), Needs()).item.tolist() == [key]


def test_an_item_can_be_named_by_any_member(tmp_path):
    assert whole(open_log(written(tmp_path, cb()), item="I.x"), Needs()).item.tolist() == [2]


def test_a_viewer_can_be_named_by_a_feature(tmp_path):
    log = open_log(
        written(tmp_path, cb(), cb(EventId="e2"), cb(EventId="e3", c={"_multi": [{}, {}]})), viewer="User.id"
    )
    keys = whole(log, Needs()).viewer
    assert keys[0] == keys[1] == hash_key("u7")
    assert keys[2] == hash_texts(["e3"])[0], "an event without a viewer is its own"


# ---------------------------------------------------------------- rewards


@pytest.mark.parametrize(
    ("rule", "reward"),
    [("label", 1.0), ("sum", 6.0), ("first", 3.0), ("last", 1.0), ("max", 3.0), ("min", 1.0), ("mean", 2.0)],
)
def test_several_outcomes_become_one_reward_as_asked(tmp_path, rule, reward):
    outcomes: list[Any] = [{"v": 3.0}, {"v": None, "ActionTaken": True}, {"v": 2}, {"v": 1.0}, {"v": "text"}]
    log = open_log(written(tmp_path, cb(o=outcomes), cb(o=[])), outcomes=rule)
    assert whole(log, Needs()).reward.tolist() == [reward, 1.0], "a label without outcomes stays"


def test_the_original_cost_is_read_if_asked_and_told_of_if_it_differs(tmp_path):
    path = written(tmp_path, cb(_label_cost=0.0, _original_label_cost=-2.0), cb(_original_label_cost=-1.0))
    log = open_log(path)
    assert whole(log, Needs()).reward.tolist() == [0.0, 1.0]
    assert [n for reason, n in log.problems().counts.items() if "_original_label_cost" in reason] == [1]
    assert whole(open_log(path, outcomes="original"), Needs()).reward.tolist() == [2.0, 1.0]


def test_outcomes_beside_their_decision_are_joined_to_it(tmp_path):
    path = written(
        tmp_path,
        '{"RewardValue":0.25,"EnqueuedTimeUtc":"2018-01-03T20:12:20Z","EventId":"none"}',
        cb(EventId="default", o=None, _label_cost=0.5),
        cb(EventId="more"),
        cb(EventId="other"),
        '{"EventId":"default","v":0.75}',
        '{"Timestamp":"2017-11-27T01:19:13.4610000Z","RewardValue":2.0,"EventId":"more"}',
    )
    log = open_log(path)
    batch = whole(log, Needs())
    assert batch.reward.tolist() == [0.75, 3.0, 1.0], "in place of a default, beside what was joined"
    assert batch.place.tolist() == [2, 3, 4]
    assert log.problems().counts == {
        "outcomes beside their decision, joined to it": 2,
        "outcomes without their decision": 1,
    }
    left = open_log(path, dangling="leave")
    assert whole(left, Needs()).reward.tolist() == [-0.5, 1.0, 1.0]
    assert left.problems().counts == {"outcomes beside their decision, left out": 3}


def test_decisions_without_a_label_get_the_outcomes_in_the_file(tmp_path):
    bare = {"_label_cost": None, "_label_probability": None, "_label_Action": None, "_labelIndex": None, "o": None}
    path = written(
        tmp_path,
        cb(EventId="a", **bare),
        cb(EventId="b", **bare),
        cb(EventId="c", DeferredAction=True, **bare),
        cb(EventId="d", DeferredAction=True, **bare),
        '{"EventId":"a","v":0.5}',
        '{"RewardValue":0.0,"DeferredAction":false,"EventId":"d"}',
    )
    log = open_log(path, default_reward=0.125)
    batch = whole(log, Needs())
    assert batch.reward.tolist() == [0.5, 0.125, 0.125]
    assert batch.propensity.tolist() == [0.5] * 3, "from p, by its place in a"
    assert log.problems().counts["deferred and never activated"] == 1


def test_decisions_that_were_never_activated_are_left_out_and_counted(tmp_path):
    log = open_log(
        written(tmp_path, cb(_skipLearn=True, _label_probability=0.0), cb(_deferred=True), cb(_skipLearn=False))
    )
    assert whole(log, Needs()).place.tolist() == [3]
    assert log.problems().counts == {"not activated (_skipLearn): never shown": 2}


# ---------------------------------------------------------------- propensities


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_label_probability": None, "p": None}, "line 2: there is no propensity; log the probability"),
        ({"_label_probability": 0}, "line 2: the propensity is 0;"),
        ({"_label_probability": -0.5}, "the propensity is -0.5"),
        ({"_label_probability": 1.01}, "the propensity is 1.01"),
        ({"_label_probability": float("nan")}, "line 2, where it is NaN and a number is expected: there is no"),
        ({"_label_probability": "0.5"}, "there is no propensity"),
    ],
)
@pytest.mark.parametrize("on_broken", ["skip", "fail"])
def test_a_propensity_that_cannot_be_is_always_an_error(tmp_path, change, said, on_broken):
    log = open_log(written(tmp_path, cb(), cb(**change)), on_broken=on_broken)
    with pytest.raises(BadLog) as error:
        whole(log, Needs())
    assert said in error.value.message
    assert "at the moment of the draw" in error.value.message


def test_a_rounding_above_one_is_one(tmp_path):
    assert whole(
        open_log(written(tmp_path, cb(_label_probability=1.0000001, p=None))), Needs()
    ).propensity.tolist() == [1]


def test_a_label_probability_that_is_not_p_is_told_of_and_p_read_if_asked(tmp_path):
    path = written(tmp_path, *[cb(_label_probability=0.25)] * 32)
    log = open_log(path)
    assert whole(log, Needs()).propensity[0] == 0.25
    assert [n for reason, n in log.problems().counts.items() if "_label_probability is not the p" in reason] == [2]
    assert whole(open_log(path, propensity="p"), Needs()).propensity[0] == 0.5


def test_decisions_have_the_same_chance_of_being_read_where_some_were_dropped(tmp_path):
    # 4,000 decisions of which all were kept, 1,000 of which three in four were dropped: thinned they are 1,000 each.
    n = 4000
    lines = [cb(EventId=f"a{i}", _label_cost=0.0, o=None) for i in range(n)]
    lines += [cb(EventId=f"b{i}", pdrop=0.75, o=None) for i in range(n // 4)]
    log = open_log(written(tmp_path, *lines))
    batch = whole(log, Needs(columns=("pdrop",)))
    assert np.count_nonzero(batch.columns["pdrop"] == 0.75) == 1000
    # Binomial(4000, 1/4) has a deviation of 27; more than 5 of them has a chance of 6e-7, and the hash is fixed.
    assert abs(np.count_nonzero(batch.columns["pdrop"] == 0) - 1000) < 137
    assert sum(log.problems().counts.values()) == n + n // 4 - batch.n
    assert whole(log, Needs()).place.tolist() == batch.place.tolist(), "the same again"
    assert whole(open_log(written(tmp_path, *lines), pdrop="keep"), Needs()).n == n + n // 4


def test_a_constant_pdrop_changes_nothing(tmp_path):
    log = open_log(written(tmp_path, *[cb(EventId=str(i), pdrop=0.5) for i in range(50)]))
    assert whole(log, Needs()).n == 50
    assert log.problems().counts == {}


# ---------------------------------------------------------------- feeds


def test_a_feed_has_slots_with_the_candidates_that_were_left(tmp_path):
    batch = whole(open_log(written(tmp_path, ccb())))
    assert batch.starts.tolist() == [0, 2]
    assert batch.reward.tolist() == [0.6, 0.0]
    assert batch.propensity.tolist() == [0.5, 0.8]
    assert batch.n_candidates.tolist() == [3, 2]
    assert batch.chosen.tolist() == [2, 0]
    mocha, latte, tea = (item_key(name) for name in ("Mocha", "Latte", "Tea"))
    assert batch.item.tolist() == [tea, mocha]
    assert batch.candidates.item.tolist() == [mocha, latte, tea, mocha, latte]
    assert b'"size": "L"' in batch.texts.candidates[0]
    assert b'"size": "M"' in batch.texts.candidates[3]
    assert b"_slots" not in batch.texts.shared[0]


def test_a_slot_that_names_only_what_it_showed_could_have_shown_the_rest(tmp_path):
    line = ccb(
        _outcomes=[
            {"_label_cost": -1, "_a": 2, "_p": 0.5},
            {"_label_cost": -1, "_a": [1], "_p": [1.0]},
        ]
    )
    assert whole(open_log(written(tmp_path, line)), Needs()).n_candidates.tolist() == [3, 2]
    line["c"]["_slots"][1]["_inc"] = [1, 2]
    assert whole(open_log(written(tmp_path, line)), Needs()).n_candidates.tolist() == [3, 1]


def test_outcomes_of_slots_are_aggregated_and_joined_by_name(tmp_path):
    path = written(tmp_path, ccb(), '{"EventId":"f1","Index":"Side","v":0.3}')
    assert whole(open_log(path), Needs()).reward.tolist() == [0.6, 0.3]
    two = [{"_label_cost": -1.0, "_a": [0], "_p": [0.5], "_o": [{"v": 1.0}, {"v": 5.0}]}]
    assert whole(open_log(written(tmp_path, ccb(_outcomes=two)), outcomes="sum"), Needs()).reward.tolist() == [6.0]


def test_feeds_and_single_decisions_come_in_the_files_order(tmp_path):
    batch = whole(open_log(written(tmp_path, cb(), ccb(), cb(EventId="e2"), ccb(EventId="f2"))))
    assert batch.place.tolist() == [1, 2, 3, 4]
    assert np.diff(batch.starts).tolist() == [1, 2, 1, 2]
    assert batch.item.tolist() == [12, item_key("Tea"), item_key("Mocha"), 12, item_key("Tea"), item_key("Mocha")]
    assert len(batch.texts.candidates) == batch.candidates.starts[-1] == 16


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([], "_outcomes is empty"),
        ([{"_label_cost": 0, "_a": [], "_p": []}], "slot 1 has no _a"),
        ([{"_label_cost": 0, "_a": [3], "_p": [0.5]}], "_multi has 3"),
        ([{"_label_cost": 0, "_a": [-1], "_p": [0.5]}], "_multi has 3"),
        ([{"_label_cost": 0, "_a": [1], "_p": [0.5]}] * 2, "slot 2 shows action 1 again"),
    ],
)
def test_a_feed_that_cannot_be_is_counted(tmp_path, outcomes, said):
    log = open_log(written(tmp_path, ccb(_outcomes=outcomes), cb()))
    assert whole(log, Needs()).n == 1
    assert said in log.problems().examples[0]


def test_a_slot_without_a_propensity_is_an_error(tmp_path):
    log = open_log(written(tmp_path, ccb(_outcomes=[{"_label_cost": 0, "_a": [1], "_p": []}])))
    with pytest.raises(BadLog, match="line 1: there is no propensity"):
        whole(log)


def test_slates_are_counted_and_not_read(tmp_path):
    outcomes = [{"_id": "0", "_a": [1, 0], "_p": [0.8, 0.2]}]
    log = open_log(written(tmp_path, ccb(_label_cost=-1, _outcomes=outcomes), cb()))
    assert whole(log, Needs()).n == 1
    assert [n for reason, n in log.problems().counts.items() if "slates" in reason] == [1]


# ---------------------------------------------------------------- files


def test_broken_lines_are_counted_with_their_numbers_or_fatal(tmp_path):
    path = written(
        tmp_path, cb(), '{"_label_cost":-1,', cb(), "", "[checkpoint]", b'{"c":"\xff"}', '{"x":1}', cb(pdrop=1.5)
    )
    log = open_log(path)
    assert whole(log, Needs()).place.tolist() == [1, 3]
    problems = log.problems()
    assert problems.counts == {
        "bad JSON": 2,
        "notes of the service (lines that begin with [)": 1,
        "neither a decision nor an outcome": 1,
        "impossible pdrop": 1,
    }
    assert [text.partition(":")[0] for text in problems.examples] == ["line 2", "line 6", "line 7", "line 8"]
    with pytest.raises(BadLog, match=r"line 2: .*on_broken='skip'"):
        whole(open_log(path, on_broken="fail"), Needs())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_labelIndex": 2}, "_labelIndex is 2, from 0, and _label_Action is 2, from 1"),
        ({"_labelIndex": 3, "_label_Action": 4}, "action 4 of 3 in _multi"),
        ({"_labelIndex": None, "_label_Action": 10**30}, "of 3 in _multi"),
        ({"_labelIndex": -1, "_label_Action": 0}, "says what was shown"),
        ({"_labelIndex": None, "_label_Action": None, "a": None}, "says what was shown"),
        ({"c": {}}, "of 0 in _multi"),
    ],
)
def test_an_action_that_cannot_be_is_counted(tmp_path, change, said):
    log = open_log(written(tmp_path, cb(**change), cb()))
    assert whole(log, Needs()).place.tolist() == [2]
    assert said in log.problems().examples[0]


def test_an_action_is_named_by_index_by_number_or_by_rank(tmp_path):
    lines = [cb(_labelIndex=None), cb(_label_Action=None), cb(_labelIndex=None, _label_Action=None)]
    assert whole(open_log(written(tmp_path, *lines)), Needs()).chosen.tolist() == [1, 1, 1]


def test_windows_line_ends_byte_order_marks_and_blank_lines_are_passed_over(tmp_path):
    path = written(tmp_path, cb())
    plain = path.read_bytes().strip()
    path.write_bytes(b"\xef\xbb\xbf" + plain + b"\r\n\r\n  \n\xef\xbb\xbf" + plain + b"\r\n" + plain)
    log = open_log(path)
    assert whole(log).place.tolist() == [1, 4, 5]
    assert log.problems().counts == {}


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_compressed_logs_are_read_also_appended_and_cut_short(tmp_path, pack):
    data = written(tmp_path, *[cb(EventId=f"e{i}") for i in range(3000)]).read_bytes()
    path = tmp_path / "log.json.packed"
    path.write_bytes(pack(data) + pack(data))
    log = open_log(path, kind="dsjson")
    assert whole(log, Needs()).n == 6000
    assert log.problems().counts == {}
    assert log.done() == log.size() == path.stat().st_size

    packed = pack(data)
    path.write_bytes(packed[: len(packed) * 2 // 3])
    log = open_log(path, kind="dsjson")
    read = sum(batch.n for batch in log.batches(Needs()))
    assert read < 3000
    assert log.problems().counts["compressed data ends early or is damaged"] == 1
    with pytest.raises(BadLog, match=r"ends early|bad JSON|malformed|truncated"):
        list(open_log(path, kind="dsjson", on_broken="fail").batches(Needs()))


def test_damaged_gzip_is_counted(tmp_path):
    data = written(tmp_path, *[cb(EventId=f"e{i}") for i in range(300)]).read_bytes()
    packed = bytearray(gzip.compress(data))
    packed[-6] ^= 255  # The checksum: all lines are there.
    path = tmp_path / "log.json.gz"
    path.write_bytes(bytes(packed))
    log = open_log(path)
    list(log.batches(Needs()))
    assert log.problems().counts == {"compressed data ends early or is damaged": 1}
    assert zlib.crc32(data)


def test_a_log_read_twice_is_the_same_and_counts_again(tmp_path):
    log = open_log(written(tmp_path, cb(), "x", cb(EventId="e2")))
    first, second = whole(log), whole(log)
    assert first.viewer.tolist() == second.viewer.tolist()
    assert log.problems().counts == {"bad JSON": 1}


def test_features_that_cannot_be_read_are_found_where_they_are_asked_for(tmp_path):
    path = written(
        tmp_path, cb(), b'{"_label_cost":0,"_label_probability":1,"_labelIndex":0,"c":{"_multi":[{"x":1e999}]}}', cb()
    )
    log = open_log(path)
    batch = whole(log, ALL)
    assert batch.place.tolist() == [1, 3]
    assert log.problems().counts == {"bad JSON": 1}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2000-02-29T12:00:00.5", 951825600.5),
        ("2021-04-26T17:23:28.1726275+02:00", 1619450608.172627),
        ("2021-13-26T17:23:28", None),
        ("yesterday", None),
        ("0001-01-01T00:00:00Z", -62135596800.0),
    ],
)
def test_times_are_seconds_since_1970(tmp_path, text, seconds):
    (found,) = whole(open_log(written(tmp_path, cb(Timestamp=text))), Needs()).time.tolist()
    assert np.isnan(found) if seconds is None else found == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "option", [{"outcomes": "median"}, {"dangling": "x"}, {"pdrop": "x"}, {"propensity": "x"}, {"n_actions": 3}]
)
def test_options_that_are_not_known_are_refused(tmp_path, option):
    with pytest.raises(BadLog, match=next(iter(option))):
        open_log(written(tmp_path, cb()), **option)
