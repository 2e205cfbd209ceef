"""Policies that learn along the log: VW does what the theory asks for, and replay notices where it does not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vowpalwabbit import Workspace

from replay.errors import BadLog, BadPolicy
from replay.events import Batch, Needs, Texts
from replay.policies import parse_policy
from replay.policies.learning import Learning, plain_file
from replay.policies.learning_run import drawn, parse_predictions
from replay.readers import open_log
from tests.replay.test_policies import Kept, batch_of

ITEMS = 4
EPSILON_GREEDY = "--cb_explore_adf --epsilon 0.1 -q UA"


def lines_of(seed: int, n: int, *, epsilon: float = 1.0, items: int = ITEMS) -> list[dict[str, Any]]:
    """Events of three kinds of viewers with a favourite each, logged epsilon-greedily around item 0."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        kind = int(rng.integers(3))
        p = np.full(items, epsilon / items)
        p[0] += 1 - epsilon
        a = int(rng.choice(items, p=p))
        reward = float(rng.random() < (0.5 if a == kind else 0.1))
        made.append(
            {
                "_label_cost": 0.0 - reward,
                "_label_probability": float(p[a]),
                "_label_Action": a + 1,
                "_labelIndex": a,
                "EventId": f"e{i}",
                "Timestamp": "2024-03-01T00:00:00Z",
                "a": [a + 1, *(j + 1 for j in range(items) if j != a)],
                "c": {"U": {"id": f"u{kind}"}, "_multi": [{"A": {"id": f"a{j}"}} for j in range(items)]},
                "p": [float(p[a]), *(float(p[j]) for j in range(items) if j != a)],
            }
        )
    return made


def written(path: Path, lines: Sequence[dict[str, Any] | str]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


class Result:
    """All that a policy gave along a log."""

    def __init__(self, spec: str, log: Any, *, pmf: bool = False) -> None:
        self.policy = parse_policy(spec)
        assert isinstance(self.policy, Learning)
        self.learner: Learning = self.policy
        self.learner.prepare(log)
        self.read(log, pmf)

    def read(self, log: Any, pmf: bool = False) -> None:
        needs = self.learner.needs(pmf)
        batches = list(log.batches(needs))
        assigned = [self.learner.assign(batch, pmf) for batch in batches]
        self.pi = np.concatenate([each.propensity for each in assigned])
        self.p = np.concatenate([batch.propensity for batch in batches])
        self.reward = np.concatenate([batch.reward for batch in batches])
        self.chosen = np.concatenate([batch.chosen for batch in batches])
        self.pmf = np.concatenate([each.pmf for each in assigned if each.pmf is not None]) if pmf else None
        flags = [each.accepted for each in assigned if each.accepted is not None]
        self.accepted = np.concatenate(flags) if flags else None
        self.bound = max(self.learner.largest_weight(b, a) for b, a in zip(batches, assigned, strict=True))

    @property
    def value(self) -> float:
        return float(np.mean(self.pi / self.p * self.reward))


# -- the theory, against a learner of one's own -----------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        EPSILON_GREEDY,
        "--cb_explore_adf --softmax --lambda 5 -q UA --cb_type ips",
        "--cb_explore_adf --squarecb --gamma_scale 50 -q UA",
        "--cb_explore_adf --first 20 --epsilon 0.05 -q UA --cb_type dr",
        "--cb_explore_adf --cover 3 --epsilon 0.1 -q UA",
        "--cb_explore_adf --epsilon 0.1 -q UA --coin",
        "--cb_explore_adf --epsilon 0.1 -q UA --sgd --power_t 0 --l2 1e-3",
    ],
)
def test_the_learner_is_the_one_that_learns_online_from_what_was_accepted(tmp_path: Path, arguments: str) -> None:
    """VW along the log, against VW that is only ever shown the accepted events, with its own probabilities."""
    lines = lines_of(1, 400)
    log = open_log(written(tmp_path / "log.json", lines))
    result = Result(f"vw:{arguments},seed=3", log, pmf=True)
    assert result.accepted is not None
    assert result.pmf is not None
    vw = Workspace(f"{arguments} --json --quiet")
    seen = 0
    for i, line in enumerate(lines):
        if not result.accepted[i]:
            continue
        examples = vw.parse(json.dumps(line["c"]))
        pmf = vw.predict(examples)
        vw.finish_example(examples)
        np.testing.assert_allclose(result.pmf[ITEMS * i : ITEMS * (i + 1)], pmf, atol=2e-6)
        label = {name: line[name] for name in ("_label_cost", "_label_Action", "_labelIndex")}
        examples = vw.parse(json.dumps({**label, "_label_probability": pmf[line["_labelIndex"]], **line["c"]}))
        vw.learn(examples)
        vw.finish_example(examples)
        seen += 1
    vw.finish()
    assert seen == result.learner.updates > 50
    assert len(np.unique(result.pmf.round(4))) > 1


def test_it_accepts_with_probability_c_whatever_the_state(tmp_path: Path) -> None:
    """Binomial; the interval is four standard deviations: it fails once in 16,000 seeds."""
    log = open_log(written(tmp_path / "log.json", lines_of(2, 4000)))
    result = Result(f"vw:{EPSILON_GREEDY}", log)
    assert result.learner.c == pytest.approx(1 / ITEMS)
    assert abs(result.learner.updates - 1000) < 4 * np.sqrt(4000 * 0.25 * 0.75)
    assert result.accepted is not None
    assert int(result.accepted.sum()) == result.learner.updates
    assert (result.pi / result.p).max() <= result.bound == pytest.approx(ITEMS)


def test_the_estimate_is_the_mean_over_all_events_of_what_the_states_are_worth(tmp_path: Path) -> None:
    """Against the exact worth of each state, pmf times known click rates; four standard errors."""
    lines = lines_of(3, 6000)
    log = open_log(written(tmp_path / "log.json", lines))
    result = Result(f"vw:{EPSILON_GREEDY}", log, pmf=True)
    assert result.pmf is not None
    kinds = np.array([int(line["c"]["U"]["id"][1:]) for line in lines])
    rates = np.where(np.arange(ITEMS)[None, :] == kinds[:, None], 0.5, 0.1)
    worth = (result.pmf.reshape(-1, ITEMS) * rates).sum(1)
    earned = result.pi / result.p * result.reward
    se = np.std(earned - worth) / np.sqrt(len(earned))
    assert abs(earned.mean() - worth.mean()) < 4 * se
    assert worth[-1000:].mean() > worth[:100].mean() + 0.05, "it learned"


def test_another_seed_accepts_others_and_the_same_seed_the_same(tmp_path: Path) -> None:
    log = open_log(written(tmp_path / "log.json", lines_of(4, 500)))
    one, same, other = (Result(f"vw:{EPSILON_GREEDY},seed={seed}", log) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.pi, same.pi)
    assert not np.array_equal(one.accepted, other.accepted)  # type: ignore[arg-type]


def test_a_log_that_is_no_uniform_one_with_the_c_of_its_floor(tmp_path: Path) -> None:
    lines = lines_of(5, 3000, epsilon=0.4)
    log = open_log(written(tmp_path / "log.json", lines))
    result = Result(f"vw:{EPSILON_GREEDY},c=0.1", log)
    assert abs(result.learner.updates - 300) < 4 * np.sqrt(3000 * 0.1 * 0.9)
    assert (result.pi / result.p).max() <= 10
    with pytest.raises(BadPolicy, match=r"c must be given.*,c=0\.1 "):
        Result(f"vw:{EPSILON_GREEDY}", log)


def test_a_c_that_is_too_large_is_noticed(tmp_path: Path) -> None:
    log = open_log(written(tmp_path / "log.json", lines_of(5, 500, epsilon=0.4)))
    with pytest.raises(BadPolicy, match=r"c=0\.5 is too large: event \d+ was logged with propensity 0\.1,"):
        Result(f"vw:{EPSILON_GREEDY},c=0.5", log)


def test_a_uniform_log_whose_later_slots_have_more_candidates(tmp_path: Path) -> None:
    log = open_log(written(tmp_path / "log.json", lines_of(6, 100, items=3)))
    more = open_log(written(tmp_path / "more.json", lines_of(6, 100, items=6)))
    batches = [batch for one in (log, more) for batch in one.batches(Needs(candidates=True, texts=True))]
    batches[1].place += 100
    result = Result(f"vw:{EPSILON_GREEDY}", Kept(*batches))
    assert result.learner.c == pytest.approx(1 / 6)


# -- other ways into VW -----------------------------------------------------------------------------


def test_every_way_into_vw_gives_the_same(tmp_path: Path) -> None:
    lines = lines_of(7, 300)
    plain = open_log(written(tmp_path / "log.json", lines))
    assert plain_file(plain) is not None
    packed = open_log(written(tmp_path / "log.json.gz", lines))
    assert plain_file(packed) is None
    kept = Kept(*plain.batches(Needs(candidates=True, texts=True)))
    results = [Result(f"vw:{EPSILON_GREEDY}", log, pmf=True) for log in (plain, packed, kept)]
    for other in results[1:]:
        np.testing.assert_array_equal(other.pi, results[0].pi)
        np.testing.assert_array_equal(other.accepted, results[0].accepted)


def test_lines_that_vw_and_replay_leave_out_or_read_otherwise(tmp_path: Path) -> None:
    lines: list[Any] = lines_of(8, 300)
    lines[10] = json.dumps(lines[10])[:80]
    lines[20]["_skipLearn"] = True
    lines[30] = ""
    lines[40] = json.dumps({"RewardValue": 1.0, "EventId": "e99", "EnqueuedTimeUtc": "2024-03-01T00:00:01Z"})
    log = open_log(written(tmp_path / "log.json", lines))
    result = Result(f"vw:{EPSILON_GREEDY}", log, pmf=True)
    assert len(result.pi) == 296
    assert result.learner.updates > 30


def test_numeric_contexts_are_learned_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    n = 800
    chosen = rng.integers(2, size=n)
    contexts = rng.normal(size=(n, 2)).round(3)
    batch = batch_of([["0", "1"]] * n, chosen.tolist())
    batch.contexts = contexts
    batch.reward = (rng.random(n) < 0.5 + 0.4 * np.where(chosen == 1, 1, -1) * np.sign(contexts[:, 0])).astype(float)
    result = Result("vw:--cb_explore_adf --epsilon 0.1 -q CI", Kept(batch))
    assert np.mean((result.pi / result.p * result.reward)[n // 2 :]) > batch.reward.mean() + 0.15


def test_reading_the_log_again_gives_the_same(tmp_path: Path) -> None:
    log = open_log(written(tmp_path / "log.json", lines_of(10, 200)))
    result = Result(f"vw:{EPSILON_GREEDY}", log)
    before, curve = result.pi, result.learner.curve()
    result.read(log)
    np.testing.assert_array_equal(result.pi, before)
    assert result.learner.curve() == curve


def test_the_curve_is_over_updates_and_adds_up(tmp_path: Path) -> None:
    log = open_log(written(tmp_path / "log.json", lines_of(11, 3000)))
    result = Result(f"vw:{EPSILON_GREEDY}", log)
    curve = result.learner.curve()
    assert sum(point.events for point in curve) == 3000
    assert sum(point.events * point.value for point in curve) / 3000 == pytest.approx(result.value)
    assert [point.first for point in curve] == sorted(point.first for point in curve)
    assert curve[-1].last == result.learner.updates
    assert "says nothing of later ones" in result.learner.note


def test_where_it_is_not_known_what_was_accepted_the_count_still_is(tmp_path: Path) -> None:
    log = open_log(written(tmp_path / "log.json", lines_of(12, 800)))
    result = Result("vw:--cb_explore_adf --bag 3 --epsilon 0.1 -q UA", log)
    assert result.accepted is None
    assert abs(result.learner.updates - 200) < 4 * np.sqrt(800 * 0.25 * 0.75)
    assert sum(point.events for point in result.learner.curve()) == 800


# -- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("vw:", "not complete"),
        ("vw:-q UA", "names no explorer"),
        ("vw:--cb_explore_adf -d other.json", "-d cannot be used"),
        ("vw:--cb_explore_adf --data=other.json", "--data cannot be used"),
        ("vw:--cb_explore_adf --explore_eval", "it is set here"),
        ("vw:--cb_explore_adf --passes 2", "one pass"),
        ("vw:--cb_explore_adf -f out.vw", "nothing is saved"),
        ("vw:--cb_explore_adf -t", "would not learn"),
        ("vw:--ccb_explore_adf", "no policy of one choice"),
        ("vw:--cb_explore_adf --sgd", "without --adaptive"),
        ("vw:--cb_explore_adf --normalized --invariant", "without --adaptive"),
        ("vw:--cb_explore_adf 'open", "cannot be read"),
        ("vw:--cb_explore_adf,c=0", "not above 0"),
        ("vw:--cb_explore_adf,c=2", "not a number from 0 to 1"),
        ("vw:--cb_explore_adf,c=.1,c=.2", "twice"),
        ("vw:--cb_explore_adf,seed=-1", "whole number"),
    ],
)
def test_arguments_that_cannot_be_evaluated_are_refused(spec: str, says: str) -> None:
    with pytest.raises(BadPolicy, match=says):
        parse_policy(spec)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--cb_explore_adf --no_such_thing", "unrecognised option '--no_such_thing'"),
        ("--cb_explore_adf -i /no/such.vw", "VW stopped"),
        ("--cb_explore_adf --regcb --cbify 3", "cannot be used"),
    ],
)
def test_what_vw_refuses_is_said(tmp_path: Path, arguments: str, says: str) -> None:
    log = open_log(written(tmp_path / "log.json", lines_of(13, 20)))
    with pytest.raises(BadPolicy, match=says):
        Result(f"vw:{arguments}", log)


def test_slates_are_refused() -> None:
    slates = batch_of([["a", "b"], ["a", "b"]], [0, 1], slots=[2])
    with pytest.raises(BadPolicy, match="several slots"):
        Result(f"vw:{EPSILON_GREEDY}", Kept(slates))


def test_a_log_that_lists_no_candidates_is_refused() -> None:
    with pytest.raises(BadLog, match="does not say"):
        Result(f"vw:{EPSILON_GREEDY}", Kept(replace(batch_of([["a", "b"]] * 5, [0] * 5), candidates=None)))


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(BadPolicy, match="no events"):
        Result(f"vw:{EPSILON_GREEDY}", Kept())


def test_a_log_that_changes_is_noticed(tmp_path: Path) -> None:
    batch: Batch = batch_of([["a", "b"]] * 20, [0] * 20)
    batch.texts = Texts([b'{"U":{"id":"u"}}'] * 20, [b'{"A":{"id":"a"}}', b'{"A":{"id":"b"}}'] * 20)
    policy = parse_policy(f"vw:{EPSILON_GREEDY}")
    policy.prepare(Kept(batch))
    batch.propensity = batch.propensity / 2
    with pytest.raises(BadPolicy, match="the log changed"):
        policy.assign(batch, False)


# -- what VW prints ---------------------------------------------------------------------------------


def parsed(text: bytes) -> tuple[list[float], list[int], int]:
    values, sizes = np.empty(len(text) + 1, np.float32), np.empty(len(text) + 1, np.int32)
    n_values, n_sizes, fault = parse_predictions(np.frombuffer(text, np.uint8), values, sizes, 1e-3)
    return values[:n_values].tolist(), sizes[:n_sizes].tolist(), fault


def test_predictions_are_parsed_into_the_order_of_actions() -> None:
    values, sizes, fault = parsed(b"2:0.91,0:0.045,1:0.045\n\n0:1\n\n1:1e-05,0:0.99999\n\n0:1,1:1e-45\n")
    assert values == pytest.approx([0.045, 0.045, 0.91, 1, 0.99999, 1e-5, 1, 0], abs=1e-7)
    assert (sizes, fault) == ([3, 1, 2, 2], 0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"0:0.5,1:0.4\n", 2),
        (b"0:1,1:1\n", 2),
        (b"0:nan,1:1\n", 1),
        (b"0:-nan\n", 1),
        (b"0:0.5,0:0.5\n", 1),
        (b"0:0.5,2:0.5\n", 1),
        (b"0.5\n", 1),
        (b"[error] no\n", 1),
        (b"0:\n", 1),
        (b":\n", 1),
        (b"0:1,\n", 1),
    ],
)
def test_what_are_no_predictions_are_faults(text: bytes, fault: int) -> None:
    values, sizes, found = parsed(b"0:1\n" + text)
    assert values == [1.0]
    assert sizes == [1]
    assert found in ((1, 2) if fault == 2 else (fault,))


def test_draws_are_vws() -> None:
    """The first random numbers of VW's generator, by its definition in plain integers."""
    state, expected = 9, []
    for _ in range(5):
        state = (0xEECE66D5DEECE66D * state + 2147483647) % 2**64
        expected.append(((state >> 25) & 0x7FFFFF) / 2**23)
    out = np.empty(5, np.uint8)
    for threshold in (0.3, 0.7):
        drawn(np.uint64(9), np.full(5, threshold, np.float32), np.ones(5), 1.0, out)
        assert out.tolist() == [int(u < threshold) for u in expected]
