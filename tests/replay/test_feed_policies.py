"""Policies over feeds: the same probabilities as serving's, whatever model and config are asked for."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import Raw
from vowpalwabbit import Workspace

from bandit import records
from bandit.config import Config, EpsilonGreedy, Greedy, Settings, Signal, Softmax, SquareCB, Uniform
from bandit.features.hashing import with_dense
from bandit.features.model_args import ModelArgs
from bandit.learning.learner import Learner
from bandit.ranking.explain import contributions
from bandit.ranking.scorer import weights_from_model
from bandit.records import Feedback, Item, ItemFeedback, ItemsRequest, Publish, RankReply, RankRequest, User
from bandit.service import Service
from bandit.statistics.columns import NAMES
from bandit.store.data import DataDirectory
from bandit.store.models import ModelFiles, append_publish
from replay import evaluate
from replay.errors import BadLog, BadPolicy
from replay.events import Batch, Needs, Policy
from replay.policies import feed_models, parse_policy
from replay.policies.feed import parse_feed
from replay.policies.feed_models import History, find_model
from replay.policies.feed_support import logged_draw, refuse_unsupported
from replay.readers import service_items
from replay.readers.service import ServiceLog
from tests.conftest import Clock, Loop
from tests.service import RunningService

VIEWERS = ("young", "old")
ITEMS = [f"v{i}" for i in range(12)]


def put_config(service: Service, **changes: Any) -> None:
    document = Config(
        **{
            "signals": {"watch_s": Signal("max", True), "like": Signal("last")},
            "reward": "like",
            "slots": 3,
            "reward_window_s": 10.0,
            # Their tests are test_rules_api.py.
            "rules": [],
            **changes,
        }
    )
    service.put_config(document, expected=service.config().version)


def rate(viewer: str, item: str) -> float:
    """How likely a viewer of this kind is to like an item: what nobody is told."""
    number = int(item[1:])
    return 0.05 + 0.06 * (number if viewer == "old" else len(ITEMS) - 1 - number)


class Viewers:
    """Seeded viewers: each looks from the top, and leaves after any slot with probability 0.25, liked or not."""

    def __init__(self, service: Service, clock: Clock, seed: int) -> None:
        self.service = service
        self.clock = clock
        self.rng = random.Random(seed)
        self.service.put_items(ItemsRequest([Item(one, Raw(b'{"kind":"film"}')) for one in ITEMS]))

    def visit(self, n_candidates: int = 8) -> tuple[RankReply, float]:
        """The reply, and what it earned."""
        rng = self.rng
        viewer = rng.choice(VIEWERS)
        request = RankRequest(
            list(rng.sample(ITEMS, n_candidates)), user=User(f"{viewer}{rng.randint(0, 400)}", {"age": viewer})
        )
        reply = self.service.rank(request)
        told, earned = [], 0.0
        for placed in reply.ranking:
            liked = float(rng.random() < rate(viewer, placed.id))
            told.append(ItemFeedback(placed.id, {"watch_s": 10.0, "like": liked}))
            earned += liked
            if rng.random() < 0.25:
                break
        self.service.feedback([Feedback(reply.event_id, told)])
        self.clock.pass_(0.5)
        return reply, earned


CONFIGS: list[dict[str, Any]] = [
    {"explorer": EpsilonGreedy(0.3), "floor": 0.1},
    {"explorer": SquareCB(), "shortlist": 4, "floor": [0.3, 0.2]},
    {"explorer": Softmax(5.0), "shortlist": None, "floor": 0.05},
    {"explorer": Uniform(), "shortlist": 2, "floor": 0.4},
    {"explorer": Greedy(), "floor": 0.2},
]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decisions under every explorer, by many models; a service at rest, for tests that leave it as it is."""
    path = tmp_path_factory.mktemp("logged") / "data"
    path.mkdir()
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False), clock=clock)
    loop = Loop(data, clock)
    viewers = Viewers(loop.service, loop.clock, seed=3)
    for config in CONFIGS:
        put_config(loop.service, **config)
        for k in range(24):
            viewers.visit(n_candidates=viewers.rng.randint(2, 9))
            if k % 4 == 0:
                loop.learn()
    loop.end_windows()
    loop.close()
    data.close()
    return path


def opened(path: Path, spec: str, **options: Any) -> tuple[ServiceLog, Policy]:
    log = ServiceLog(path, **options)
    policy = parse_policy(spec)
    policy.prepare(log)
    return log, policy


def assigned(path: Path, spec: str, check: Callable[[Batch, Any, Any], None], **options: Any) -> int:
    """How many decisions there were; ``check`` gets each batch, with and without all probabilities."""
    log, policy = opened(path, spec, **options)
    n = 0
    for batch in log.batches(policy.needs(True)):
        n += batch.n
        check(batch, policy.assign(batch, False), policy.assign(batch, True))
        for assignment in (policy.assign(batch, False), policy.assign(batch, True)):
            weights = assignment.propensity / batch.propensity
            products = np.multiply.reduceat(weights, batch.starts[:-1])
            assert products.max() <= policy.largest_weight(batch, assignment) * (1 + 1e-9)
    log.close()
    return n


SPECS = (
    "uniform",
    "caller",
    "caller,epsilon=.2,floor=.1",
    "config:2",
    "config:4",
    "feed:newest",
    "feed:newest,explorer=epsilon,epsilon=.4,floor=.2/.1,shortlist=3",
    "feed:newest,explorer=softmax,lambda=3,shortlist=none,floor=0",
    "feed:newest,explorer=squarecb,gamma_scale=50,gamma_exponent=.25",
    "feed:newest,explorer=greedy,floor=.5",
    "feed:logged,explorer=uniform,shortlist=2,floor=.1",
)


@pytest.mark.parametrize("spec", SPECS)
def test_probabilities_sum_to_one_and_hold_what_was_shown(logged: Path, spec: str) -> None:
    def check(batch: Batch, plain: Any, full: Any) -> None:
        starts = np.concatenate([[0], np.cumsum(batch.n_candidates)])
        if batch.candidates is not None:
            assert np.array_equal(starts, batch.candidates.starts)
        assert np.array_equal(plain.propensity, full.propensity)
        assert plain.pmf is None
        assert np.add.reduceat(full.pmf, starts[:-1]) == pytest.approx(1.0, abs=1e-12)
        assert np.array_equal(full.pmf[starts[:-1] + batch.chosen], full.propensity)
        assert ((full.pmf >= 0) & (full.pmf <= 1)).all()

    assert assigned(logged, spec, check) == 120


def expected(
    scores: list[float], left: list[int], *, rule: str, a: float, shortlist: int, phi: float
) -> dict[int, float]:
    """A slot's probabilities written out plainly, by candidate."""
    seen = sorted(left, key=lambda i: (-scores[i], i))[: shortlist or len(left)]
    gaps = [scores[seen[0]] - scores[i] for i in seen]
    if rule == "epsilon":
        q = [a / len(seen) + (1 - a) * (place == 0) for place in range(len(seen))]
    elif rule == "softmax":
        q = [float(np.exp(-a * gap)) for gap in gaps]
        q = [one / sum(q) for one in q]
    else:
        q = [1 / (len(seen) + a * gap) for gap in gaps]
        q[0] = 1 - sum(q[1:])
    found = {i: phi / len(left) for i in left}
    for i, share in zip(seen, q, strict=True):
        found[i] += (1 - phi) * share
    return found


@pytest.mark.parametrize(
    ("options", "rule", "a", "shortlist", "floor"),
    [
        ("explorer=epsilon,epsilon=.4,floor=.2/.1,shortlist=3", "epsilon", 0.4, 3, [0.2, 0.1, 0.1]),
        ("explorer=softmax,lambda=3,shortlist=none,floor=0", "softmax", 3.0, 0, [0.0] * 3),
        ("explorer=squarecb,gamma_scale=50,gamma_exponent=0,floor=.1,shortlist=4", "squarecb", 50.0, 4, [0.1] * 3),
    ],
)
def test_probabilities_are_those_of_the_model_and_config_that_were_asked_for(
    logged: Path, options: str, rule: str, a: float, shortlist: int, floor: list[float]
) -> None:
    """Against the slow way: scores added up name by name, explorers written out."""
    log, policy = opened(logged, f"feed:newest,{options}")
    model = find_model("newest", log)
    n = 0
    for batch in log.batches(Needs()):
        given = policy.assign(batch, True)
        feeds, at = batch.source, 0
        for i, entry in enumerate(feeds.entries):
            dense = feeds.dense(i)
            assert dense is not None
            texts = [
                with_dense(text, NAMES, values)
                for text, values in zip(feeds.items.texts(entry.versions.tolist()), dense.tolist(), strict=True)
            ]
            scores = [
                sum(part for _, part in contributions(bytes(entry.decision.shared), text, model.weights, model.args))
                for text in texts
            ]
            left = [place for place in range(len(texts)) if feeds.state[feeds.of[i] + place] == 0]
            for slot, placed in enumerate(feeds.at[batch.starts[i] : batch.starts[i + 1]].tolist()):
                p = expected(scores, left, rule=rule, a=a, shortlist=shortlist, phi=floor[slot])
                assert given.propensity[batch.starts[i] + slot] == pytest.approx(p[placed], abs=1e-4)
                assert given.pmf is not None
                assert given.pmf[at : at + len(left)] == pytest.approx([p[place] for place in left], abs=1e-4)
                at += len(left)
                left.remove(placed)
                n += 1
    assert n > 250
    log.close()


# ---------------------------------------------------------------- the known answer


def check_is_logged(batch: Batch, plain: Any, full: Any) -> None:
    # Bit for bit: it is the same code.
    assert plain.propensity.tobytes() == batch.propensity.tobytes()
    assert full.propensity.tobytes() == batch.propensity.tobytes()


def test_the_models_and_configs_that_served_give_the_logged_probabilities_bit_for_bit(logged: Path) -> None:
    assert assigned(logged, "feed:logged", check_is_logged) == 120


def test_models_whose_files_are_gone_are_built_again_from_the_log(
    logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(logged, copy)
    shutil.rmtree(copy / "models")
    assert assigned(copy, "feed:logged", check_is_logged) == 120
    # However little is kept, and though the newest is asked for first.
    monkeypatch.setattr(feed_models, "KEPT_BYTES", 1)
    log = ServiceLog(copy)
    history = History(log)
    files = ModelFiles(logged)
    kept = [one for one in log.published() if (files.folder / f"{one.digest}.vw").is_file()]
    assert len(kept) > 6
    for published in kept[::3]:
        model = history.model(published.digest)
        found = weights_from_model(files.read(published.digest), log.args)
        assert model.weights.tobytes() == found.tobytes()
        assert model.n_learned == published.learned
    history.close()
    log.close()


def test_a_config_is_put_in_force_for_all_decisions(logged: Path) -> None:
    """Config 3 was in force for a fifth of them: there it gives what was logged, and elsewhere something else."""
    agreed = {True: 0, False: 0}

    def check(batch: Batch, plain: Any, full: Any) -> None:
        of_slot = np.repeat(batch.fields["config"] == "3", np.diff(batch.starts))
        assert np.array_equal(plain.propensity[of_slot], batch.propensity[of_slot])
        agreed[True] += int(of_slot.sum())
        agreed[False] += int((plain.propensity == batch.propensity)[~of_slot].sum())

    log, policy = opened(logged, "config:3")
    for batch in log.batches(Needs(fields=("config",))):
        check(batch, policy.assign(batch, False), None)
    assert agreed[True] > 50
    # Where there was one candidate left, everything agrees.
    assert agreed[False] < 50
    log.close()


def test_a_log_without_a_model_is_answered_too(data: DataDirectory, clock: Clock) -> None:
    service = Service(data, clock=clock)
    put_config(service, floor=0.05)
    viewers = Viewers(service, clock, seed=1)
    for _ in range(20):
        assert viewers.visit()[0].fallback == "no_model"
    clock.pass_(100.0)
    viewers.visit()
    assert assigned(data.path, "feed:logged", check_is_logged) == 20
    # As the service ranks without a model, but for the floor: epsilon 0.1 over the caller's order.
    assert assigned(data.path, "caller,epsilon=.1,floor=.05", check_is_logged) == 20
    with pytest.raises(BadPolicy, match="no model file is kept"):
        opened(data.path, "feed:newest")


def test_what_a_deadline_cut_off_is_scored(loop: Loop) -> None:
    put_config(loop.service, explorer=Greedy(), floor=0.1)
    loop.clock.pass_(1.0)
    reply = loop.service.rank(RankRequest([f"v{i}" for i in range(3_000)], deadline_ms=0.3))
    loop.end_windows()
    log, policy = opened(loop.data.path, "feed:newest")
    (batch,) = log.batches(policy.needs(True))
    given = policy.assign(batch, True)
    assert given.pmf is not None
    assert batch.n_candidates[0] == 3_000
    # An untrained model scores all alike, so the caller's first is the best.
    assert given.pmf[0] == pytest.approx(0.9 + 0.1 / 3_000)
    if 0 < reply.scored < 3_000:
        with pytest.raises(BadPolicy, match="deadline"):
            logged_draw(batch.source, 0, History(log))
    log.close()


# ---------------------------------------------------------------- bounds, and where there is no answer


def test_the_bound_on_weights_is_reached_where_it_can_be(loop: Loop) -> None:
    """Logged uniformly through a floor of one, ranked by the caller: 1 / (1/8 * 1/7 * 1/6)."""
    put_config(loop.service, floor=1.0)
    viewers = Viewers(loop.service, loop.clock, seed=2)
    for _ in range(5):
        viewers.visit()
    loop.end_windows()
    log, policy = opened(loop.data.path, "caller")
    for batch in log.batches(Needs()):
        assert policy.largest_weight(batch, policy.assign(batch, False)) == pytest.approx(8 * 7 * 6)
        uniform = parse_policy("uniform")
        assert uniform.largest_weight(batch, uniform.assign(batch, True)) == pytest.approx(1.0)
        assert parse_policy("feed:newest").needs(False) == Needs()
    log.close()


@pytest.mark.parametrize(("explorer", "could"), [(SquareCB(), 3), (Greedy(), 1)])
def test_a_log_without_a_floor_answers_nothing_that_it_could_not_show(loop: Loop, explorer: Any, could: int) -> None:
    put_config(loop.service, explorer=explorer, floor=[0.1, 0.0], shortlist=3)
    viewers = Viewers(loop.service, loop.clock, seed=2)
    for _ in range(10):
        viewers.visit()
        loop.learn()
    loop.end_windows()
    assert assigned(loop.data.path, "feed:logged", check_is_logged) == 10
    # Nothing beyond what the logging policy could have shown, if in other shares.
    within = "feed:logged,explorer=uniform,floor=0,shortlist=" + str(could)
    assert assigned(loop.data.path, within, lambda *_: None) == 10
    log, policy = opened(loop.data.path, "feed:newest,explorer=uniform,shortlist=none")
    (batch,) = log.batches(Needs())
    with pytest.raises(BadPolicy, match=r"slot 1 with floor 0: .*about .*% of its choice") as refused:
        policy.assign(batch, False)
    # Of 8 candidates: of 7 at slot 1, then of 6, only the explorer's could be shown.
    assert refused.value.detail["uncovered"] == pytest.approx((1 - could / 7 + 1 - could / 6) / 2)
    # A policy that does not draw as the service does.
    with pytest.raises(BadPolicy, match="how much cannot be told"):
        refuse_unsupported(batch, 1.0 / batch.n_candidates)
    refuse_unsupported(batch, batch.propensity)
    log.close()


def test_an_explorer_that_reaches_everything_needs_no_floor(loop: Loop) -> None:
    put_config(loop.service, explorer=EpsilonGreedy(0.3), floor=0.0, shortlist=None)
    viewers = Viewers(loop.service, loop.clock, seed=2)
    for _ in range(10):
        viewers.visit()
    loop.end_windows()
    assert assigned(loop.data.path, "caller", lambda *_: None) == 10


# ---------------------------------------------------------------- models


def saved(tmp_path: Path, arguments: str) -> Path:
    path = tmp_path / "model.vw"
    workspace = Workspace(f"{arguments} --quiet")
    workspace.save(str(path))
    workspace.finish()
    return path


def test_a_model_is_a_file_a_version_or_the_newest(logged: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(logged, copy)
    log = ServiceLog(copy)
    newest = log.published()[0]
    path = copy / "models" / f"{newest.digest}.vw"
    for text in ("newest", newest.digest, newest.digest[:8], str(path)):
        model = find_model(text, log)
        assert model.weights.any()
        assert model.n_learned == newest.learned
        assert model.args.bits == log.args.bits
    with pytest.raises(BadPolicy, match=r"'zz' is neither a file.*kept are .*" + newest.digest):
        find_model("zz", log)
    path.unlink()
    with pytest.raises(BadPolicy, match="not kept any more"):
        find_model(newest.digest, log)
    log.close()


def test_a_model_that_vw_saved_elsewhere_is_read_with_its_own_arguments(logged: Path, tmp_path: Path) -> None:
    log = ServiceLog(logged)
    path = saved(tmp_path, "--cb_explore_adf --epsilon 0.2 --hash all -b 12 -q UI --ignore_linear S -l 0.1")
    model = find_model(str(path), log)
    expected = ModelArgs.parse("-b 12 -q UI --ignore_linear S")
    assert (model.args.bits, model.args.interactions) == (expected.bits, expected.interactions)
    assert (model.args.ignore_linear, model.args.noconstant) == ("S", False)
    assert len(model.weights) == 1 << 12
    assert assigned(logged, f"feed:{path},explorer=greedy", lambda *_: None) == 120
    log.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--cb_adf --cb_type dr --hash all", "cb_type dr"),
        ("--cb_adf -q UI", "--hash strings"),
        ("--cb_adf --hash all --nn 3", "--nn"),
        ("--hash all", "without the state of learning"),
        ("--cb_adf --hash all --hash_seed 3", "hash_seed"),
    ],
)
def test_a_model_that_the_kernel_does_not_cover_is_refused(
    logged: Path, tmp_path: Path, arguments: str, said: str
) -> None:
    with pytest.raises(BadPolicy, match=said):
        opened(logged, f"feed:{saved(tmp_path, arguments)}")


def test_what_is_no_model_is_refused(logged: Path, tmp_path: Path) -> None:
    path = tmp_path / "nonsense.vw"
    path.write_bytes(b"\x06\x00\x00\x00hello\x00" * 10)
    with pytest.raises(BadPolicy, match=r"nonsense\.vw"):
        opened(logged, f"feed:{path}")


def test_hashed_rows_are_bounded(logged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_items, "MAX_ROWS", 10)
    assert assigned(logged, "feed:logged", check_is_logged) == 120


def test_features_that_are_damaged_are_said(logged: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(logged, copy)
    connection = sqlite3.connect(copy / "log.db")
    with connection:
        connection.execute("UPDATE item_versions SET features = '{\"x\":[1]}' WHERE id = 'v3'")
    connection.close()
    with pytest.raises(BadLog, match=r"damaged.*features"):
        assigned(copy, "feed:newest", lambda *_: None)


# ---------------------------------------------------------------- specs


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("feed:", "no policy over feeds"),
        ("feed", "no policy over feeds"),
        ("config:one", "no policy over feeds"),
        ("config:1,floor=.1", "no policy over feeds"),
        ("feed:newest,explorer=best", "no explorer; there are squarecb"),
        ("feed:newest,explorer=epsilon,epsilon=2", "epsilon"),
        ("feed:newest,explorer=greedy,epsilon=.1", "epsilon"),
        ("feed:newest,epsilon=.1", "no explorer; add explorer=NAME"),
        ("feed:newest,floor=-1", "from 0 to 1"),
        ("feed:newest,floor=.1/x", "no number"),
        ("feed:newest,floor=nan", "from 0 to 1"),
        ("feed:newest,shortlist=0", "1 to 10000, or none"),
        ("feed:newest,shortlist=2.5", "1 to 10000, or none"),
        ("feed:newest,slots=3", "allowed are explorer"),
        ("feed:newest,floor=.1,floor=.2", "each key once"),
        ("feed:newest,greedy", "key=value"),
        ("caller,floor=.1,lambda=3", "allowed are epsilon, floor"),
    ],
)
def test_a_spec_that_cannot_be_understood_is_refused(spec: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=said):
        parse_feed("name", spec)


def test_configs_and_logs_that_are_not_there_are_refused(logged: Path) -> None:
    with pytest.raises(BadPolicy, match="no config 77; it has 1 to 6"):
        opened(logged, "config:77")

    class Other:
        name, kind = "log.parquet", "parquet"

    with pytest.raises(BadPolicy, match=r"log\.parquet is parquet"):
        parse_feed("x", "caller").prepare(Other())  # type: ignore[arg-type]


# ---------------------------------------------------------------- the truth

N_LOGGED = 2_500
N_DEPLOYED = 1_200
# Two-sided, of a normal: each of the three comparisons fails a right implementation with 6.3e-5.
STANDARD_ERRORS = 4.0
# Tastes are of a viewer's own features, which the default does not cross with the item.
CROSSED = "-b 18 -q UI -l 0.2"


def trained(tmp_path: Path) -> tuple[bytes, int]:
    """A model that knows something of the viewers' tastes, from elsewhere."""
    rng = random.Random(11)
    with Learner(ModelArgs.parse(CROSSED), scratch=tmp_path) as learner:
        for _ in range(600):
            viewer, item = rng.choice(VIEWERS), rng.choice(ITEMS)
            shared = b'{"S":{"slot":"0"},"U":{"age":"%s"}}' % viewer.encode()
            text = b'{"I":{"id":"%s","kind":"film"}}' % item.encode()
            learner.learn(shared, text, reward=float(rng.random() < rate(viewer, item)))
        return learner.save(), learner.n_learned


def deployed(path: Path, model: bytes, n_learned: int, seed: int, n: int, **config: Any) -> list[float]:
    """What feeds earn with this model and config really in force, and nothing learned."""
    path.mkdir()
    clock = Clock()
    data = DataDirectory(Settings(path, vw=CROSSED, durable=False), clock=clock)
    digest, weights_digest = data.models.write(model, weights_from_model(model, data.args))
    publish = Publish(digest=digest, position=1, reads_from=1, learned=n_learned)
    data.log.append(lambda txn: append_publish(txn, publish, {publish.digest: weights_digest}))
    service = Service(data, clock=clock)
    put_config(service, **config)
    viewers = Viewers(service, clock, seed)
    earned = [viewers.visit()[1] for _ in range(n)]
    clock.pass_(1_000.0)
    data.log.append(lambda txn: txn.append("tick", records.encode(records.Tick())))
    data.close()
    return earned


def rips(batch: Batch, propensity: np.ndarray) -> np.ndarray:
    """Shape (n,): each slot's reward, weighed by the product down to it."""
    weights, sums = propensity / batch.propensity, []
    for begin, end in zip(batch.starts[:-1], batch.starts[1:], strict=True):
        sums.append(float((np.cumprod(weights[begin:end]) * batch.reward[begin:end]).sum()))
    return np.array(sums)


def test_the_estimate_of_another_policy_is_what_it_earns_when_deployed(tmp_path: Path) -> None:
    """Logged by one policy, estimated for another, which is then put in force for the same kind of viewers.

    Seeded; three comparisons, each of whose false-alarm rates is 6.3e-5.
    """
    model, n_learned = trained(tmp_path)
    (tmp_path / "model.vw").write_bytes(model)
    earned = deployed(
        tmp_path / "logged", model, n_learned, 1, N_LOGGED, explorer=Softmax(1.0), shortlist=None, floor=0.3
    )
    log = ServiceLog(tmp_path / "logged")
    batches = list(log.batches(Needs()))
    assert sum(one.n for one in batches) == N_LOGGED

    # The known answer, exactly: the logged policy earned what was earned, feed by feed.
    own = np.concatenate([rips(one, one.propensity) for one in batches])
    assert sorted(own) == sorted(earned)
    assert own.mean() == pytest.approx(np.mean(earned), rel=1e-12)

    asked: dict[str, dict[str, Any]] = {
        f"feed:{tmp_path}/model.vw,explorer=epsilon,epsilon=.6,shortlist=5,floor=.2": {
            "explorer": EpsilonGreedy(0.6), "shortlist": 5, "floor": 0.2,
        },
        f"feed:{tmp_path}/model.vw,explorer=softmax,lambda=4,shortlist=none,floor=.2": {
            "explorer": Softmax(4.0), "shortlist": None, "floor": 0.2,
        },
        "uniform": {"floor": 1.0},
    }  # fmt: skip
    for seed, (spec, config) in enumerate(asked.items()):
        policy = parse_policy(spec)
        policy.prepare(log)
        estimates = np.concatenate([rips(one, policy.assign(one, False).propensity) for one in batches])
        truth = deployed(tmp_path / f"deployed{seed}", model, n_learned, 100 + seed, N_DEPLOYED, **config)
        error = np.hypot(estimates.std() / len(estimates) ** 0.5, np.std(truth) / len(truth) ** 0.5)
        assert abs(estimates.mean() - np.mean(truth)) < STANDARD_ERRORS * error
        # And it is an estimate worth the name: far from what was logged, closer than that to the truth.
        assert error < 0.06
        if spec != "uniform":
            assert np.mean(truth) - np.mean(earned) > 2 * error
    log.close()


@pytest.mark.slow
def test_a_real_service_is_asked_while_it_runs(tmp_path: Path) -> None:
    """Over HTTP, two workers and a trainer that publishes as it learns: the live log gives what was earned, and the
    models that served then, few of whose files are left, what was drawn."""
    rng = random.Random(7)
    earned = {}
    with RunningService(tmp_path / "data", workers=2, tick_s=0.1, publish_ms=20, keep_models=2) as running:
        before = running.call("GET", "/v1/config")
        changes = {"reward_window_s": 0.5, "slots": 3, "reward": "like", "floor": 0.2}
        running.call("PUT", "/v1/config", {**before.body, **changes}, headers={"If-Match": before.headers["ETag"]})
        running.call("PUT", "/v1/items", {"items": [{"id": one, "features": {"kind": "film"}} for one in ITEMS]})
        for _ in range(60):
            viewer = rng.choice(VIEWERS)
            request = {"candidates": ITEMS, "user": {"id": f"{viewer}{rng.randint(0, 9)}", "features": {"age": viewer}}}
            reply = running.call("POST", "/v1/rank", request).body
            likes = [float(rng.random() < rate(viewer, one["id"])) for one in reply["ranking"]]
            items = [
                {"id": one["id"], "signals": {"watch_s": 9, "like": like}, "final": True}
                for one, like in zip(reply["ranking"], likes, strict=True)
            ]
            told = {"event_id": reply["event_id"], "items": items}
            assert running.call("POST", "/v1/feedback", told).body["status"] == "accepted"
            earned[reply["event_id"]] = sum(likes)
        log, policy = opened(running.data, "feed:logged")
        found = {}
        for batch in log.batches(policy.needs(True)):
            check_is_logged(batch, policy.assign(batch, False), policy.assign(batch, True))
            sums = rips(batch, batch.propensity)
            found.update({entry.event_id: value for entry, value in zip(batch.source.entries, sums, strict=True)})
        assert found == earned
        assert len({one.digest for one in log.published()}) > 5
        log.close()


def test_a_model_that_learned_from_the_log_is_named_and_can_be_judged_by_what_came_after(logged: Path) -> None:
    service_log = ServiceLog(logged)
    until = service_log.published()[0].position
    every = [place for batch in service_log.batches(Needs()) for place in batch.place.tolist()]
    older = sorted(every)[len(every) // 2]
    service_log.close()
    found = evaluate(logged, ["new=feed:newest,explorer=uniform"], model="none").policies[0]
    leaks = [check for check in found.checks if check.name == "learned from this log"]
    assert [check.measured for check in leaks] == [until]
    later = ServiceLog(logged, after=older)
    places = [place for batch in later.batches(Needs()) for place in batch.place.tolist()]
    assert sorted(places) == sorted(place for place in every if place > older)
    assert later.problems().counts["before the position that was asked for"] == len(every) - len(places) > 0
    later.close()
    with pytest.raises(BadLog, match="before the position"):
        evaluate(logged, ["new=feed:newest,explorer=uniform"], after=until + 10**6)
