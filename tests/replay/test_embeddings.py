"""MIPS: weights by what candidates are like agree with their definition, and are refused where the log cannot tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replay
from replay.__main__ import main
from replay.collect import collect
from replay.collected import Asked
from replay.embeddings import Embedding, embedded_weights
from replay.errors import BadQuestion
from replay.estimators import SINGLE, mips, parse_estimator
from replay.evaluation import evaluate
from replay.events import F64, Batch, Candidates, Needs, Texts
from replay.policies import as_policy
from replay.readers.arrays import ArrayLog
from tests.replay.logs import cb, written

GENRES = ("drama", "comedy", "news")


def world(
    seed: int, *, n: int = 500, a: int = 12, by_genre: bool = True, logged: bool = True, uniform: bool = False
) -> tuple[ArrayLog, dict[str, Any]]:
    """A log of n events over a candidates; reward depends on genre and length alone, or on the candidate as well."""
    rng = np.random.default_rng(seed)
    genre, length = rng.integers(0, 3, a), rng.integers(0, 2, a)
    p_log, p_new = rng.dirichlet(np.ones(a), n), rng.dirichlet(np.full(a, 0.3), n)
    if uniform:
        p_log = np.full((n, a), 1 / a)
    action = (p_log.cumsum(1) < rng.random((n, 1))).sum(1).clip(0, a - 1)
    rate = np.array([0.1, 0.5, 0.8])[genre] * np.where(length == 1, 1.0, 0.5)
    if not by_genre:
        rate = rng.random(a)
    reward = (rng.random(n) < rate[action]).astype(np.float64)
    texts = [
        json.dumps({"_tag": str(k), "I": {"genre": GENRES[genre[k]], "length": int(length[k]), "n": k}}).encode()
        for k in range(a)
    ]
    log = replay.from_arrays(
        reward=reward, action=action, propensity=p_log[np.arange(n), action],
        candidates=Candidates(
            np.arange(n + 1) * a, np.tile(np.arange(a, dtype=np.uint64), n), p_log.ravel() if logged else None
        ),
        texts=Texts([b"{}"] * n, texts * n), reward_range=(0.0, 1.0),
    )  # fmt: skip
    truth = float((p_new * rate).sum(1).mean())
    return log, {
        "p_log": p_log, "p_new": p_new, "action": action, "reward": reward, "genre": genre, "length": length,
        "truth": truth,
    }  # fmt: skip


def oracle(given: dict[str, Any], *fields: str) -> F64:
    """Shape (n,): the definition, with a matrix P(e | a) of zeros and ones (Saito and Joachims, eq. 4)."""
    a = len(given["genre"])
    embedding = np.array([list(column) for column in zip(*(given[field] for field in fields), strict=True)])
    p_e_a = (embedding[:, None, :] == embedding[None, :, :]).all(2).astype(np.float64)
    of_shown = p_e_a[given["action"]]
    assert of_shown.shape == (len(given["action"]), a)
    weights: F64 = (given["p_new"] * of_shown).sum(1) / (given["p_log"] * of_shown).sum(1)
    return weights


def asked(log: Any, pmf: Any, *names: str, **options: Any) -> dict[str, Any]:
    answer = evaluate(log, {"new": pmf}, estimators=names, model="none", slices=(), **options).policies[0]
    return {each.estimator: each for each in answer.estimates}


@pytest.mark.parametrize("fields", [("genre",), ("length",), ("genre", "length")])
def test_values_and_errors_are_those_of_the_definition(fields: tuple[str, ...]) -> None:
    for seed in range(5):
        log, given = world(seed)
        name = f"mips(by={'+'.join(fields)})"
        found = asked(log, given["p_new"], name)[name]
        x = oracle(given, *fields) * given["reward"]
        assert found.value == pytest.approx(x.mean(), rel=1e-12, abs=1e-12)
        assert found.se == pytest.approx(x.std(ddof=1) / np.sqrt(len(x)), rel=0.02)  # some viewers share a bucket
        assert found.interval.low < found.value < found.interval.high


def test_every_candidate_by_itself_is_ips() -> None:
    log, given = world(6)
    found = asked(log, given["p_new"], "mips(by=n)", "mips(by=I.n)", "ips")
    assert found["mips(by=n)"].value == pytest.approx(found["ips"].value, rel=1e-12)
    assert found["mips(by=I.n)"].value == found["mips(by=n)"].value


def test_a_uniform_log_needs_no_more_than_it_says() -> None:
    log, given = world(7, logged=False, uniform=True)
    found = asked(log, given["p_new"], "mips(by=genre)")["mips(by=genre)"]
    assert found.value == pytest.approx(float((oracle(given, "genre") * given["reward"]).mean()), rel=1e-12)


def test_where_reward_is_by_embedding_it_is_unbiased_and_far_nearer_than_ips() -> None:
    # 60 logs, 200 candidates: mean error within 4 standard errors (false alarm 6e-5), error under half of that of ips.
    errors = []
    for seed in range(60):
        log, given = world(100 + seed, n=300, a=200)
        found = asked(log, given["p_new"], "mips(by=genre+length)", "ips")
        # Refused by candidates, or not: what is sound by embedding is told.
        ips = float((given["p_new"] / given["p_log"])[np.arange(300), given["action"]] @ given["reward"] / 300)
        errors.append((found["mips(by=genre+length)"].value - given["truth"], ips - given["truth"]))
    by_embedding, by_candidate = np.array(errors).T
    assert abs(by_embedding.mean()) < 4 * by_embedding.std() / np.sqrt(60)
    assert np.sqrt((by_embedding**2).mean()) < 0.5 * np.sqrt((by_candidate**2).mean())


def test_the_bound_on_weights_is_that_of_embeddings() -> None:
    log, given = world(8)
    batch = next(iter(log.batches(Needs(candidates=True, texts=True, logged=True))))
    keys = Embedding(("genre",)).keys(batch)
    assert batch.candidates is not None
    assert batch.candidates.logged is not None
    found = embedded_weights(
        keys, batch.candidates, batch.chosen, given["p_new"].ravel(), batch.candidates.logged
    )  # fmt: skip
    of = np.array([[given["p_new"][:, given["genre"] == g].sum(1) / given["p_log"][:, given["genre"] == g].sum(1)]
                   for g in np.unique(given["genre"])])  # fmt: skip
    assert found.bound == pytest.approx(of.max(), rel=1e-12)
    np.testing.assert_allclose(found.weight, oracle(given, "genre"), rtol=1e-12)
    assert found.uncovered == 0.0


def test_embeddings_that_the_log_could_not_show_are_no_answer_and_candidates_may_be() -> None:
    log, given = world(9, n=3000)
    never = given["p_log"].copy()
    never[:, given["genre"] == 0] = 0.0
    never /= never.sum(1, keepdims=True)
    rng = np.random.default_rng(9)
    action = (never.cumsum(1) < rng.random((len(never), 1))).sum(1).clip(0, 11)
    assert log._whole.candidates is not None
    made = replay.from_arrays(
        reward=given["reward"], action=action, propensity=never[np.arange(len(never)), action],
        candidates=Candidates(log._whole.candidates.starts, log._whole.candidates.item, never.ravel()),
        texts=log._whole.texts, reward_range=(0.0, 1.0),
    )  # fmt: skip
    assert asked(made, given["p_new"], "mips(by=genre)") == {}
    # Other candidates of the same lengths were shown: by length there is an answer where there is none by candidate.
    found = asked(made, given["p_new"], "mips(by=length)")
    assert list(found) == ["mips(by=length)"]
    assert found["mips(by=length)"].interval is not None


def test_parts_merge_to_the_whole() -> None:
    log, given = world(10, n=1000)
    batches = list(log.batches(Needs(candidates=True, texts=True, logged=True)))
    estimator = mips("genre")
    wanted = Asked((estimator, SINGLE["ips"]), primary=(SINGLE["ips"], SINGLE["ips"]), reward_range=(0.0, 1.0))

    class Part:
        name, kind, marginals, reward_range = "part", "arrays", False, (0.0, 1.0)

        def __init__(self, first: int, last: int) -> None:
            self.rows = np.arange(first, last)

        def batches(self, needs: Needs) -> Any:
            from replay.readers.ragged import taken

            yield taken(batches[0], self.rows)

        def size(self) -> int:
            return 0

        done = size

    def collected(first: int, last: int) -> Any:
        def pmf(batch: Batch) -> Any:
            return given["p_new"][batch.place - 1].ravel()

        policy = as_policy(pmf, "new")
        return collect(Part(first, last), [policy], wanted, slates=False).policies["new"]  # type: ignore[arg-type]

    whole, parts = collected(0, 1000), collected(0, 300).merge(collected(300, 1000))
    mine, theirs = whole.embedded[estimator].sums, parts.embedded[estimator].sums
    assert estimator.value(theirs) == pytest.approx(estimator.value(mine), rel=1e-12)
    assert theirs.weight_bound == mine.weight_bound


@pytest.mark.parametrize("text", ["mips", "mips()", "mips(by=)", "mips(by=a++b)", "mips(by=a+a)", "mips(lambda=1)"])
def test_what_candidates_are_alike_in_must_be_said(text: str) -> None:
    with pytest.raises(BadQuestion, match="mips needs what makes candidates alike"):
        parse_estimator(text, slates=False)


def test_questions_that_the_log_cannot_tell_are_refused() -> None:
    log, given = world(11)
    with pytest.raises(
        BadQuestion, match=r"no candidate has a feature creator.*they have _tag, I.genre, I.length, I.n"
    ):
        asked(log, given["p_new"], "mips(by=creator)")
    with pytest.raises(BadQuestion, match="log all of them"):
        asked(world(11, logged=False)[0], given["p_new"], "mips(by=genre)")
    plain = replay.from_arrays(reward=[1.0, 0.0], action=[0, 1], propensity=[0.5, 0.5], n_actions=2)
    with pytest.raises(BadQuestion, match="needs features of candidates"):
        asked(plain, "uniform", "mips(by=genre)")
    unsaid = replay.from_arrays(
        reward=[1.0, 0.0], action=[0, 1], propensity=[0.5, 0.5], n_actions=2, columns={"p": [0.5, 0.5]},
        texts=Texts([b"{}"] * 2, [b'{"genre":"a"}'] * 4),
    )  # fmt: skip
    with pytest.raises(BadQuestion, match="needs how likely new makes each candidate"):
        asked(unsaid, "column:p", "mips(by=genre)")
    with pytest.raises(BadQuestion, match="no estimator"):
        parse_estimator("mips(by=genre)", slates=True)


def test_any_value_is_a_category_and_none_is_one_too() -> None:
    texts = [b'{"g":"a"}', b'{"N":{"g":"a"}}', b'{"g":["a"]}', b'{"g":1}', b'{"g":"1"}', b'{"x":2}', b'{"y":3}']
    n = len(texts)
    log = replay.from_arrays(
        reward=[1.0], action=[0], propensity=[1 / n], n_actions=n, texts=Texts([b"{}"], texts)
    )  # fmt: skip
    (batch,) = log.batches(Needs(candidates=True, texts=True))
    keys = Embedding(("g",)).keys(batch).tolist()
    assert [keys.index(key) for key in keys] == [0, 0, 2, 3, 4, 5, 5]


def test_the_command_estimates_by_embedding_on_dsjson(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(12)
    pmf = np.array([0.6, 0.3, 0.1])
    lines = []
    for i in range(1500):
        k = int(rng.choice(3, p=pmf))
        order = [k, *(j for j in range(3) if j != k)]
        lines.append(
            cb(EventId=f"e{i}", _label_cost=-float(rng.random() < 0.5), _label_probability=pmf[k], _label_Action=k + 1,
               _labelIndex=k, a=[j + 1 for j in order], p=pmf[order].tolist(), o=None,
               c={"_multi": [{"_tag": str(j), "I": {"genre": "x" if j else "y"}} for j in range(3)]})
        )  # fmt: skip
    path = written(tmp_path, *lines)
    assert main(["evaluate", str(path), "--policy", "uniform", "--estimator", "mips(by=genre)", "--json"]) == 0
    found = {each["estimator"]: each for each in json.loads(capsys.readouterr().out)["policies"][0]["estimates"]}
    shown = np.array([line["_labelIndex"] for line in lines])
    reward = -np.array([line["_label_cost"] for line in lines])
    weight = np.where(shown == 0, (1 / 3) / 0.6, (2 / 3) / 0.4)
    assert found["mips(by=genre)"]["value"] == pytest.approx(float((weight * reward).mean()), rel=1e-12)
