"""From a log and a question to an answer: values, differences, verdicts, refusals, slices, parts that merge."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from replay import evaluate, from_arrays
from replay.answer import Options, answer
from replay.collect import collect
from replay.errors import BadLog, BadPolicy, BadQuestion, Unsupported
from replay.evaluation import named, wanted
from replay.events import Needs
from replay.results import Evaluation

N_ACTIONS = 4
VALUES = np.array([0.2, 0.4, 0.6, 0.3])
LOGGING = np.array([0.4, 0.3, 0.2, 0.1])
TARGET = np.array([0.1, 0.1, 0.7, 0.1])


def draw(n: int, seed: int = 1, **more: Any) -> dict[str, Any]:
    """A log of four actions whose values are known, drawn by LOGGING."""
    rng = np.random.default_rng(seed)
    action = rng.choice(N_ACTIONS, n, p=LOGGING)
    return {
        "action": action,
        "reward": (rng.random(n) < VALUES[action]).astype(float),
        "propensity": LOGGING[action],
        "n_actions": N_ACTIONS,
        "reward_range": (0.0, 1.0),
        "columns": {"new": TARGET[action]},
        "time": 1.7e9 + np.arange(n) * 60.0,
        "fields": {"country": np.where(np.arange(n) % 3 == 0, "no", "se")},
        **more,
    }


def drawn(n: int, seed: int = 1, **more: Any):
    return from_arrays(**draw(n, seed, **more))


def test_value_and_difference_are_near_the_truth_and_the_verdict_is_right() -> None:
    # One seed; intervals of 95 % miss one time in twenty, so they are made wider: alpha 1e-4.
    result = evaluate(drawn(5_000), ["new=column:new"], alpha=1e-4)
    new = result.policies[0]
    truth, production = float(TARGET @ VALUES), float(LOGGING @ VALUES)
    assert new.difference is not None
    for each in new.estimates:
        assert each.interval is not None
        assert each.interval.low < truth < each.interval.high, each
    assert [each.estimator for each in new.estimates] == ["snips", "ips", "beta_ips"]
    assert new.difference.interval.low < truth - production < new.difference.interval.high
    assert new.difference.verdict == "better"
    assert result.production.interval is not None
    assert result.production.interval.low < production < result.production.interval.high
    assert new.sequence is not None
    assert new.sequence.low < truth < new.sequence.high


def test_the_logged_policy_is_the_known_answer() -> None:
    result = evaluate(drawn(500), ["logged"], alpha=0.1)
    logged = result.policies[0]
    assert logged.difference is not None
    for each in logged.estimates:
        assert each.value == pytest.approx(result.production.value, abs=1e-12)
    assert (logged.difference.value, logged.difference.interval.low, logged.difference.interval.high) == (0.0, 0.0, 0.0)
    assert logged.difference.verdict == "undecided"
    assert logged.weights is not None
    assert logged.weights.ess == pytest.approx(500)


def test_a_target_that_the_log_knows_nothing_of_is_refused_with_bounds_and_advice() -> None:
    n = 2_000
    log = draw(n, propensity=np.where(np.arange(n) == 0, 1e-4, 1.0), action=np.where(np.arange(n) == 0, 1, 0))
    log["columns"] = {"other": np.where(np.arange(n) == 0, 1.0, 0.0)}
    answered = evaluate(from_arrays(**log), ["other=column:other"]).policies[0]
    assert answered.refused is not None
    assert answered.estimates == []
    assert answered.difference is None
    assert answered.bounds is not None
    assert 0.0 <= answered.bounds.low <= answered.bounds.high <= 1.0
    assert answered.events_needed is None or answered.events_needed > n


def test_slices_add_up_to_the_whole_and_are_right_by_themselves() -> None:
    given = draw(6_000)
    result = evaluate(from_arrays(**given), ["new=column:new"], slices=("country",))
    parts = {part.label: part for part in result.policies[0].slices["country"]}
    assert set(parts) == {"no", "se"}
    assert sum(part.n for part in parts.values()) == 6_000
    rows = np.asarray(given["fields"]["country"]) == "no"
    alone = {name: given[name][rows] for name in ("action", "reward", "propensity")}
    new = {"new": given["columns"]["new"][rows]}
    only = from_arrays(**alone, n_actions=N_ACTIONS, reward_range=(0.0, 1.0), columns=new)
    alone_value = evaluate(only, ["new=column:new"]).policies[0].estimates[0].value
    assert parts["no"].value == pytest.approx(alone_value, abs=1e-12)


def test_over_time_every_event_is_in_one_stretch() -> None:
    parts = evaluate(drawn(5_000), ["new=column:new"]).policies[0].over_time
    assert sum(part.n for part in parts) == 5_000
    assert [part.label for part in parts] == sorted(part.label for part in parts)


def test_parts_of_a_log_merge_into_what_the_whole_gives() -> None:
    given = draw(3_000, viewer=np.arange(3_000) // 3)
    whole = from_arrays(**given)
    options = Options(slices=("country",))

    def collected(low: int, high: int):
        per_event = {name: given[name][low:high] for name in ("action", "reward", "propensity", "time", "viewer")}
        part = from_arrays(
            **per_event,
            n_actions=N_ACTIONS,
            reward_range=(0.0, 1.0),
            columns={"new": given["columns"]["new"][low:high]},
            fields={"country": given["fields"]["country"][low:high]},
        )
        asked = wanted(part, options, slates=False)
        return collect(part, named(["new=column:new", "uniform"]), asked, slates=False)

    merged = collected(0, 700).merge(collected(700, 2_000)).merge(collected(2_000, 3_000))
    policies = named(["new=column:new", "uniform"])
    once = collect(whole, policies, wanted(whole, options, slates=False), slates=False)
    one, other = (answer(whole, each, policies, options, seconds=0.0) for each in (once, merged))
    _assert_same(msgspec.to_builtins(one), msgspec.to_builtins(other))


def _assert_same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            _assert_same(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            _assert_same(a, b, f"{where}[{place}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12), where
    else:
        assert one == other, where


def test_the_order_of_events_changes_nothing() -> None:
    given = draw(1_000)
    order = np.random.default_rng(3).permutation(1_000)
    shuffled = {
        **given,
        **{name: given[name][order] for name in ("action", "reward", "propensity", "time")},
        "columns": {"new": given["columns"]["new"][order]},
        "fields": {"country": given["fields"]["country"][order]},
        "viewer": order,
    }
    given["viewer"] = np.arange(1_000)
    one, other = (evaluate(from_arrays(**each), ["new=column:new"], model="none") for each in (given, shuffled))
    for a, b in zip(one.policies[0].estimates, other.policies[0].estimates, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-12)
        assert a.se == pytest.approx(b.se, rel=1e-9)


def test_a_callers_own_predictions_are_used_as_they_are() -> None:
    class Right:
        def predict(self, batch):
            return np.tile(VALUES, batch.n)

    policies = {"new": lambda batch: np.tile(TARGET, batch.n)}
    result = evaluate(drawn(2_000), policies, model=Right(), estimators=("dm", "dr"))
    values = {each.estimator: each.value for each in result.policies[0].estimates}
    assert values["dm"] == pytest.approx(float(TARGET @ VALUES), abs=1e-12)
    assert values["dr"] != values["dm"]


def test_feeds_are_evaluated_as_feeds() -> None:
    rng = np.random.default_rng(5)
    n, n_slots = 4_000, 3
    action = rng.integers(0, 2, (n, n_slots))
    log = from_arrays(
        reward=(rng.random((n, n_slots)) < 0.2 + 0.3 * action).astype(float),
        action=action,
        propensity=np.full((n, n_slots), 0.5),
        n_actions=2,
        columns={"new": np.where(action == 1, 0.8, 0.2)},
        reward_range=(0.0, 3.0),
    )
    assert evaluate(log, ["logged"], estimators=("sips",), model="none").policies[0].estimates[1].estimator == "sips"
    result = evaluate(log, ["new=column:new"], alpha=1e-4, assumptions=True)
    new = result.policies[0]
    truth = n_slots * (0.2 + 0.3 * 0.8)
    assert new.difference is not None
    assert {each.estimator for each in new.estimates} >= {"rips", "sips", "snrips"}
    for each in new.estimates:
        assert each.interval is not None
        assert each.interval.low < truth < each.interval.high, each
    assert new.difference.verdict == "better"
    assert any(check.name == "assumption: rips" and check.level == "ok" for check in new.checks)


def test_it_goes_through_json_unchanged() -> None:
    result = evaluate(drawn(300), ["new=column:new"], slices=("country",))
    assert msgspec.json.decode(msgspec.json.encode(result), type=Evaluation) == result


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.5}, "alpha"),
        ({"estimators": ("best",)}, "there are"),
        ({"interval": "exactly"}, "there are"),
        ({"weight_bound": 0.5}, "at least 1"),
        ({"reward_range": (1.0, 0.0)}, "reward range"),
        ({"slices": ("planet",)}, "planet"),
        ({"estimators": ("dr",), "model": "none"}, "reward model"),
        ({"model": "oracle"}, "oracle"),
        ({"tune": "luck", "estimators": ("dros",)}, "there are"),
    ],
)
def test_what_cannot_be_asked_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises((BadQuestion, BadLog), match=says):
        evaluate(drawn(100), ["uniform"], **options)


@pytest.mark.parametrize(
    ("policies", "says"),
    [
        ([], "no policy"),
        (["uniform", "uniform"], "two policies"),
        (["best"], "there are"),
        (["a=column:other"], "other"),
    ],
)
def test_policies_that_cannot_be_are_said(policies: list[str], says: str) -> None:
    with pytest.raises((BadPolicy, BadLog), match=says):
        evaluate(drawn(100), policies)


def test_one_row_zero_rewards_and_zero_weights_give_no_nan() -> None:
    one = drawn(1)
    nothing = drawn(200, reward=np.zeros(200))
    never = drawn(200, columns={"new": np.zeros(200)})
    for log in (one, nothing, never):
        text = msgspec.json.encode(evaluate(log, ["new=column:new"]))
        assert b"NaN" not in text
    zero = evaluate(nothing, ["new=column:new"]).policies[0]
    assert zero.refused is None
    assert zero.estimates[0].value == 0.0
    assert zero.estimates[0].interval is not None
    assert zero.estimates[0].interval.high > 0.0
    assert evaluate(never, ["new=column:new"]).policies[0].refused is not None


def test_an_empty_log_says_so() -> None:
    with pytest.raises(BadLog, match=r"no event|empty|0 events"):
        evaluate(from_arrays(reward=[], action=[], propensity=[]), ["uniform"])


def test_only_what_is_asked_for_is_read() -> None:
    seen: list[Needs] = []
    log = drawn(50)
    inner = log.batches
    log.batches = lambda needs: seen.append(needs) or inner(needs)  # type: ignore[func-returns-value]
    evaluate(log, ["new=column:new"], model="none")
    assert not any(needs.candidates or needs.texts for needs in seen)


def test_what_cannot_be_supported_is_a_refusal_of_that_policy_alone() -> None:
    class Beyond:
        name, spec, stationary = "beyond", "beyond", True

        def needs(self, pmf: bool) -> Needs:
            return Needs()

        def prepare(self, log: Any) -> None:
            pass

        def assign(self, batch: Any, pmf: bool) -> Any:
            raise Unsupported("slot 1 was drawn with floor 0")

        def largest_weight(self, batch: Any, assignment: Any) -> float:
            raise AssertionError("not asked")

    result = evaluate(drawn(200), [Beyond(), "uniform"])
    beyond, uniform = result.policies
    assert beyond.refused == "slot 1 was drawn with floor 0"
    assert beyond.estimates == []
    assert uniform.refused is None


def test_the_default_shrinks_between_model_and_weights_and_says_how() -> None:
    result = evaluate(drawn(3_000), {"new": lambda batch: np.tile(TARGET, batch.n)})
    found = {each.estimator: each for each in result.policies[0].estimates}
    assert list(found) == ["sndr", "shrunk", "dr", "snips", "ips", "beta_ips", "dm"]
    assert found["shrunk"].interval is None
    assert "least estimated error" in found["shrunk"].note
    assert abs(found["shrunk"].value - float(TARGET @ VALUES)) < 0.05


def test_lambda_is_chosen_where_none_is_given_and_said() -> None:
    policies = {"new": lambda batch: np.tile(TARGET, batch.n)}
    for rule in ("prior", "slope", "cross_validation"):
        result = evaluate(drawn(1_000), policies, estimators=("dros", "clip", "switch(lambda=2)"), tune=rule)
        found = {each.estimator.partition("(")[0]: each for each in result.policies[0].estimates}
        assert set(found) == {"sndr", "dros", "clip", "switch"}
        assert rule in found["dros"].note
        assert found["switch"].estimator == "switch(lambda=2)"
