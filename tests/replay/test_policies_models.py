"""Models that VW saved as target policies: scores are VW's, explorers are serving's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vowpalwabbit import Workspace

from bandit.slate.drawing import slot_probabilities
from bandit.slate.explorers import Explorer, epsilon_greedy, greedy, softmax, squarecb, uniform
from replay.errors import BadPolicy
from replay.events import Batch, Texts
from replay.policies import parse_policy
from replay.policies.base import candidate_starts
from replay.policies.rows import explored
from replay.policies.vw_model import Model, VwModel, load_model
from tests.replay.test_policies import Kept, batch_of

SEED = 5
N_EVENTS = 120


def events(seed: int, n: int, *, odd: bool = False) -> list[dict[str, Any]]:
    """Contexts with their candidates; odd ones hold what the kernel's hasher does not know."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        shared: dict[str, Any] = {
            "U": {"id": f"u{rng.integers(5)}", "age": round(float(rng.normal()), 3)},
            "C": {"x": 0.5},
        }
        if odd:
            shared["deep"] = {"in": {"er": 1.5}, "list": [1, 2.5]}
        multi = [
            {"A": {"id": f"a{i}", "long": round(float(rng.normal()), 2)}, "U": {"match": bool(rng.integers(2))}}
            for i in range(int(rng.integers(2, 6)))
        ]
        made.append({**shared, "_multi": multi})
    return made


def labelled(event: dict[str, Any], rng: np.random.Generator) -> str:
    n = len(event["_multi"])
    a = int(rng.integers(n))
    cost = -float(rng.random() < 0.1 + 0.2 * (a == 1))
    return json.dumps(
        {"_label_cost": cost, "_label_probability": 1 / n, "_label_Action": a + 1, "_labelIndex": a, **event}
    )


def saved(path: Path, args: str, made: list[dict[str, Any]]) -> Path:
    rng = np.random.default_rng(SEED)
    vw = Workspace(f"{args} --json --quiet")
    for event in made:
        examples = vw.parse(labelled(event, rng))
        vw.learn(examples)
        vw.finish_example(examples)
    vw.save(str(path))
    vw.finish()
    return path


def batch_of_events(made: Sequence[dict[str, Any]]) -> Batch:
    batch = batch_of([[str(i) for i in range(len(event["_multi"]))] for event in made], [0] * len(made))
    batch.texts = Texts(
        [json.dumps({k: v for k, v in event.items() if k != "_multi"}).encode() for event in made],
        [json.dumps(one).encode() for event in made for one in event["_multi"]],
    )
    return batch


def predicted(path: Path, made: Sequence[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """What VW itself says, with the model as it was saved."""
    vw = Workspace(f"-i {path} -t --json --quiet")
    out: list[float] = []
    for event in made:
        examples = vw.parse(json.dumps(event))
        out += vw.predict(examples)
        vw.finish_example(examples)
    vw.finish()
    return np.array(out)


def prepared(spec: str, batch: Batch) -> VwModel:
    policy = parse_policy(spec)
    assert isinstance(policy, VwModel)
    policy.prepare(Kept(batch))
    return policy


def by_kernel_and_vw(policy: VwModel, batch: Batch) -> tuple[Any, Any]:
    model: Model | None = policy._model
    assert model is not None
    starts = candidate_starts(batch)
    slow = policy._by_vw(model.scorer, batch, starts)
    policy._by_vw = lambda *_: pytest.fail("VW was asked")  # type: ignore[method-assign]
    return policy._scores(model, batch, starts), slow


@pytest.mark.parametrize(
    "args",
    [
        "--cb_adf --cb_type mtr --hash all -q UA",
        "--cb_adf -q UA -q CA --l2 1e-4 --l1 1e-5",
        "--cb_adf --interactions UAC --ignore_linear A --noconstant -b 14",
        "--cb_adf --sgd --power_t 0 -q UA --cubic UCA --learning_rate 0.01",
        "--cb_adf --cb_type ips -q UA --learning_rate 0.3",
    ],
)
def test_the_kernel_scores_as_vw_does(tmp_path: Path, args: str) -> None:
    made = events(1, N_EVENTS)
    path = saved(tmp_path / "m.vw", args, made)
    batch = batch_of_events(made)
    fast, slow = by_kernel_and_vw(prepared(f"greedy:{path}", batch), batch)
    truth = -predicted(path, made)
    assert np.ptp(truth) > 0.01
    np.testing.assert_allclose(fast, truth, atol=2e-6)
    np.testing.assert_allclose(slow, truth, atol=2e-6)


@pytest.mark.parametrize(
    ("args", "spec"),
    [
        ("--cb_explore_adf --epsilon 0.2 --first_only -q UA", "epsilon:{},epsilon=.2"),
        ("--cb_explore_adf --softmax --lambda 7 -q UA", "softmax:{},lambda=7"),
        ("--cb_explore_adf --squarecb --gamma_scale 300 -q UA", f"squarecb:{{}},gamma_scale=300,n_learned={N_EVENTS}"),
        ("--cb_explore_adf --first 3 -q UA --hash all", "greedy:{}"),
    ],
)  # fmt: skip
def test_a_model_saved_with_its_explorer_gives_vws_own_probabilities(tmp_path: Path, args: str, spec: str) -> None:
    made = events(2, N_EVENTS)
    path = saved(tmp_path / "m.vw", args, made)
    batch = batch_of_events(made)
    policy = prepared(spec.format(path), batch)
    assignment = policy.assign(batch, True)
    truth = predicted(path, made)
    assert assignment.pmf is not None
    np.testing.assert_allclose(assignment.pmf, truth, atol=2e-5)
    assert len({round(float(p), 4) for p in truth}) >= 2
    np.testing.assert_allclose(assignment.propensity, truth[candidate_starts(batch)[:-1]], atol=2e-5)


@pytest.mark.parametrize(
    "args", ["--cb_adf --cb_type dr -q UA", "--cb_adf --nn 2", "--cb_adf -q ::", "--cb_adf --cubic UUA"]
)
def test_what_the_kernel_cannot_score_vw_scores(tmp_path: Path, args: str) -> None:
    made = events(1, 40)
    path = saved(tmp_path / "m.vw", args, made)
    batch = batch_of_events(made)
    policy = prepared(f"greedy:{path}", batch)
    assert policy._model is not None
    truth = -predicted(path, made)
    assert np.ptp(truth) > 0.01
    np.testing.assert_allclose(policy._scores(policy._model, batch, candidate_starts(batch)), truth, atol=2e-6)


def test_features_that_the_kernel_does_not_know_are_scored_by_vw(tmp_path: Path) -> None:
    made = events(3, 40, odd=True)
    path = saved(tmp_path / "m.vw", "--cb_adf -q UA -q dA", made)
    batch = batch_of_events(made)
    policy = prepared(f"softmax:{path},lambda=3", batch)
    assert policy._model is not None
    assert isinstance(policy._hasher.many(batch.texts.shared), int) if batch.texts else False
    np.testing.assert_allclose(
        policy._scores(policy._model, batch, candidate_starts(batch)), -predicted(path, made), atol=2e-6
    )


def test_names_of_digits_are_numbers_to_vw_unless_all_is_hashed(tmp_path: Path) -> None:
    made = [{"U": {"7": 1.0}, "_multi": [{"A": {"12": float(i)}} for i in range(1, 4)]} for _ in range(40)]
    for args in ("--cb_adf -q UA", "--cb_adf -q UA --hash all"):
        path = saved(tmp_path / "m.vw", args, made)
        batch = batch_of_events(made)
        policy = prepared(f"greedy:{path}", batch)
        assert policy._model is not None
        fast = policy._scores(policy._model, batch, candidate_starts(batch))
        np.testing.assert_allclose(fast, -predicted(path, made), atol=2e-6)


def test_candidates_that_come_again_are_known(tmp_path: Path) -> None:
    made = events(4, 60)
    path = saved(tmp_path / "m.vw", "--cb_adf -q UA", made)
    batch = batch_of_events(made)
    policy = prepared(f"greedy:{path}", batch)
    parts = [batch_of_events(made[:20]), batch_of_events(made[20:])]
    whole = policy.assign(batch, True).pmf
    pieces = [policy.assign(part, True).pmf for part in parts]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))  # type: ignore[arg-type]


def test_the_order_of_batches_does_not_matter(tmp_path: Path) -> None:
    made = events(6, 40)
    path = saved(tmp_path / "m.vw", "--cb_adf -q UA", made)
    batch = batch_of_events(made)
    once = prepared(f"softmax:{path}", batch).assign(batch, True).pmf
    other = prepared(f"softmax:{path}", batch)
    other.assign(batch_of_events(made[::-1]), True)
    np.testing.assert_array_equal(other.assign(batch, True).pmf, once)


EXPLORERS = [
    greedy(), uniform(), epsilon_greedy(epsilon=0.3), softmax(lambda_=4.0), squarecb(gamma_scale=3.0, n_learned=100),
]  # fmt: skip


@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.3, 2.0]), min_size=1, max_size=7), min_size=1, max_size=4),
    st.sampled_from(EXPLORERS),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([0, 2]),
)
def test_explorers_are_those_of_serving(
    values: list[list[float]], explorer: Explorer, floor: float, shortlist: int
) -> None:
    flat = np.array([value for slot in values for value in slot], np.float32)
    starts = np.cumsum([0, *map(len, values)])
    ours = explored(flat, starts, explorer=explorer, shortlist=shortlist, floor=floor)
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        theirs = slot_probabilities(
            flat[begin:end], np.zeros(end - begin, np.uint8), np.empty(0, np.int32),
            slot=0, explorer=explorer, shortlist=shortlist, floor=np.array([floor]),
        )  # fmt: skip
        np.testing.assert_allclose(ours[begin:end], theirs, rtol=1e-13, atol=1e-16)


def test_a_floor_and_a_shortlist(tmp_path: Path) -> None:
    made = events(7, 40)
    path = saved(tmp_path / "m.vw", "--cb_adf -q UA", made)
    batch = batch_of_events(made)
    assignment = prepared(f"greedy:{path},floor=.2,shortlist=2", batch).assign(batch, True)
    assert assignment.pmf is not None
    n = np.repeat(batch.n_candidates, batch.n_candidates)
    np.testing.assert_allclose(np.sort(np.unique((assignment.pmf * n).round(9)))[0], 0.2)
    np.testing.assert_allclose(np.add.reduceat(assignment.pmf, candidate_starts(batch)[:-1]), 1)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("epsilon:{},epsilon=2", "at least 0 and at most 1"),
        ("epsilon:{},epsilon=much", "not a number"),
        ("epsilon:{},epsilon=nan", "not a number"),
        ("greedy:{},epsilon=.1", "the option epsilon"),
        ("softmax:{},lambda=-1", "not a number"),
        ("softmax:{},lambda=inf", "must be"),
        ("squarecb:{},floor=-1", "floor=-1"),
        ("greedy:,floor=.1", "names no model"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, spec: str, says: str) -> None:
    (tmp_path / "m.vw").write_bytes(b"")
    with pytest.raises(BadPolicy, match=says):
        parse_policy(spec.format(tmp_path / "m.vw"))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "m.vw", "--cb_adf -q UA", events(8, 20)).read_bytes()
    batch = batch_of_events(events(8, 2))
    for content in (b"", b"no model", whole[:40], whole[:-3]):
        (tmp_path / "bad.vw").write_bytes(content)
        with pytest.raises(BadPolicy):
            prepared(f"greedy:{tmp_path / 'bad.vw'}", batch)


@pytest.mark.parametrize(
    "args", ["--cb_explore_adf --bag 3 -q UA", "--cb_explore_adf --cover 3", "--cb_explore_adf --cb_type dr"]
)
def test_models_whose_scores_are_no_sums_are_refused(tmp_path: Path, args: str) -> None:
    path = saved(tmp_path / "m.vw", args, events(9, 20))
    with pytest.raises(BadPolicy, match="linear models"):
        load_model("greedy:m.vw", path)


def test_a_log_without_features_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.vw", "--cb_adf", events(9, 20))
    batch = batch_of([["a", "b"]], [0])
    with pytest.raises(BadPolicy, match="ranks by features"):
        prepared(f"greedy:{path}", batch).assign(batch, False)
