"""The kernel's scores are VW's, for every argument set that is accepted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vowpalwabbit.pyvw import Workspace

from bandit.errors import CorruptModel
from bandit.features.hashing import HashedFeatures, hash_resolved, resolve_item, resolve_shared, with_dense
from bandit.features.item_table import ItemTable, TableView
from bandit.features.model_args import ModelArgs
from bandit.learning.learner import Learner
from bandit.ranking.scorer import dense_indices, prepare, read_state, score, score_prepared, weights_from_model

# Relative to the sum S of the absolute terms of each score (or to 1, where that is less). VW adds its n terms
# up one by one in float32, and may be n * 2**-24 * S off itself. A quarter of that is allowed where it is more
# than 1e-6, beyond 67 terms; wildcards make thousands. The kernel is held to exact sums more closely below.
TOLERANCE = 1e-6
TOLERANCE_A_TERM = 2.0**-26
TOLERANCE_OF_EXACT = 2e-7

PRIME = 16777619
CONSTANT = 11650396


class Case(NamedTuple):
    """A learned model, and candidates to score with it."""

    args: ModelArgs
    model: bytes
    weights: npt.NDArray[np.float32]
    view: TableView
    rows: npt.NDArray[np.int32]
    ids: list[str]
    items: list[dict[str, Any]]
    requests: list[bytes]


def some_features(rng: random.Random, *, letters: str) -> dict[str, Any]:
    """Strings, numbers, booleans, lists and namespaces; often few, sometimes none."""
    made: dict[str, Any] = {}
    for name in rng.sample("abcdefgh", rng.randrange(5)):
        kind = rng.randrange(6)
        if kind == 0:
            made[name] = rng.choice(["x", "y z", "ü", "7"])
        elif kind == 1:
            made[name] = rng.choice([rng.gauss(0, 1), rng.uniform(-20, 20), rng.randrange(-3, 9)])
        elif kind == 2:
            made[name] = rng.random() < 0.7
        elif kind == 3:
            made[name] = rng.sample(["p", "q", "r"], rng.randrange(4))
        elif kind == 4:
            made[rng.choice(letters) + rng.choice(["", "1", "pace"])] = {
                inner: rng.choice([rng.gauss(0, 1), "s", True]) for inner in rng.sample("klm", rng.randrange(4))
            }
    return {name: value for name, value in made.items() if name not in "UCISDP"}


def learned(text: str, seed: int, scratch: Path, *, n_lessons: int = 80, n_items: int = 12) -> Case:
    rng = random.Random(seed)
    args = ModelArgs.parse(text)
    ids = [f"v{k}" for k in range(n_items)]
    items = [some_features(rng, letters="UCISst") for _ in ids]
    requests = []
    for _ in range(12):
        user, context = some_features(rng, letters="UCa"), some_features(rng, letters="ISb")
        shared_names = set(user) & set(context)
        context = {name: value for name, value in context.items() if name not in shared_names}
        requests.append(resolve_shared(rng.choice(["u1", "u2", None]), user, context))
    with Learner(args, scratch=scratch) as learner:
        for _ in range(n_lessons):
            k = rng.randrange(n_items)
            weight = rng.choice([1.0, 1.0, 3.5])
            item = resolve_item(ids[k], items[k])
            learner.learn(rng.choice(requests), item, reward=rng.gauss(0, 1), weight=weight)
        model = learner.save()
    table = ItemTable(n_items)
    rows = table.add(ids, [msgspec.json.encode(item) for item in items])
    weights = weights_from_model(model, args)
    return Case(args, model, weights, table.view(), rows, ids, items, requests)


def vw_scores(case: Case, scratch: Path) -> npt.NDArray[np.float64]:
    """Negative of VW's own costs: shape (requests, items)."""
    path = scratch / "served.vw"
    path.write_bytes(case.model)
    vw = Workspace(f"{case.args.vw_command()} -t -i {path}")
    actions = ",".join(resolve_item(i, item).decode() for i, item in zip(case.ids, case.items, strict=True))
    scores = []
    for shared in case.requests:
        examples = vw.parse(f'{{{shared[1:-1].decode()},"_multi":[{actions}]}}')
        scores.append([-cost for cost in vw.predict(examples)])
        vw.finish_example(examples)
    vw.finish()
    return np.array(scores)


def kernel_scores(case: Case) -> npt.NDArray[np.float32]:
    out = np.empty((len(case.requests), len(case.rows)), np.float32)
    for shared, row in zip(case.requests, out, strict=True):
        score(case.view, case.rows, hash_resolved(shared), case.weights, case.args, row)
    return out


def sums_of_terms(case: Case, weights: npt.NDArray[np.float32], value: Any) -> npt.NDArray[np.float32]:
    """What the same kernel gives of other weights, and of ``value`` of every feature's value."""
    view = case.view._replace(val=value(case.view.val))
    out = np.empty((len(case.requests), len(case.rows)), np.float32)
    for shared, row in zip(case.requests, out, strict=True):
        letters, idx, val = hash_resolved(shared)
        score(view, case.rows, HashedFeatures(letters, idx, value(val)), weights, case.args, row)
    return -out


DENSE_ARGUMENTS = [
    "",
    "-q DU -q CD",
    "-q DI",
    "-q DD --cubic UDI",
    "-q ::",
    "--ignore_linear D -q DS",
    "--interactions DDU --interactions sDt",
]
COLUMNS = ["alpha", "beta", "gamma"]


@pytest.mark.parametrize("text", DENSE_ARGUMENTS)
def test_dense_columns_score_as_vw_scores_their_text(text: str, tmp_path: Path) -> None:
    rng = random.Random(31)
    args = ModelArgs.parse(text)
    ids = [f"v{k}" for k in range(9)]
    # Some bring namespaces of the same letter, which stand after the dense one.
    items = [some_features(rng, letters="UIsDtE") for _ in ids]
    dense = np.array(
        [[rng.choice([0.0, rng.gauss(0, 1), rng.uniform(-3, 3)]) for _ in COLUMNS] for _ in ids], np.float32
    )
    texts = [
        with_dense(resolve_item(i, item), COLUMNS, row.tolist()) for i, item, row in zip(ids, items, dense, strict=True)
    ]
    requests = [resolve_shared(f"u{k}", some_features(rng, letters="Ub"), {"hour": str(k)}) for k in range(4)]
    with Learner(args, scratch=tmp_path) as learner:
        for _ in range(60):
            learner.learn(rng.choice(requests), rng.choice(texts), reward=rng.gauss(0, 1))
        model = learner.save()
    table = ItemTable(len(ids))
    rows = table.add(ids, [msgspec.json.encode(item) for item in items])
    weights = weights_from_model(model, args)
    path = tmp_path / "served.vw"
    path.write_bytes(model)
    vw = Workspace(f"{args.vw_command()} -t -i {path}")
    out = np.empty(len(ids), np.float32)
    for shared in requests:
        score(
            table.view(), rows, hash_resolved(shared), weights, args, out,
            dense_idx=dense_indices(COLUMNS), dense=dense,
        )  # fmt: skip
        actions = ",".join(text.decode() for text in texts)
        examples = vw.parse(f'{{{shared[1:-1].decode()},"_multi":[{actions}]}}')
        costs = vw.predict(examples)
        vw.finish_example(examples)
        np.testing.assert_allclose(out, [-cost for cost in costs], rtol=0, atol=2e-5)
        assert np.ptp(out) > 1e-3
    vw.finish()


def test_a_dense_matrix_of_another_shape_is_refused(tmp_path: Path) -> None:
    case = learned("", 1, tmp_path)
    with pytest.raises(ValueError, match="dense is"):
        score(
            case.view, case.rows, hash_resolved(case.requests[0]), case.weights, case.args,
            np.empty(len(case.rows), np.float32), dense_idx=dense_indices(COLUMNS),
        )  # fmt: skip


def assert_agrees(case: Case, scratch: Path) -> None:
    n_terms = sums_of_terms(case, np.ones_like(case.weights), np.ones_like)
    share = np.maximum(TOLERANCE, TOLERANCE_A_TERM * n_terms)
    allowed = share * np.maximum(1.0, sums_of_terms(case, np.abs(case.weights), np.abs))
    difference = np.abs(kernel_scores(case) - vw_scores(case, scratch))
    assert (difference <= allowed).all(), (case.args.text, float((difference / allowed).max()))


ARGUMENTS = [
    "",
    "--noconstant",
    "--ignore_linear UI",
    "-q UI -q CI -q UC",
    "-q IU --noconstant --ignore_linear ISUCsta",
    "-q II -q UU -q SS",
    "-q UI --interactions IU",
    "--cubic UCI",
    "--cubic IUC --cubic ICU",
    "--cubic UIC",
    "--cubic UUI",
    "--cubic UII",
    "--cubic III",
    "--cubic sIt -q ss -q sa",
    "-q ::",
    "-q I: -q :U",
    "--cubic I:U",
    "--cubic :U: -q UI",
    "--cubic :::",
    "-q UI --l1 0.003",
    "-q UI --l2 0.05",
    "-q :: --l1 0.0005 --l2 0.02",
    "-q UI --power_t 0.2 -l 2",
    "-q UI --power_t 1",
    "-q UI --sparse_l2 0.05",
    "-b 8 -q ::",
    "-b 24 -q UI",
]


@pytest.mark.parametrize("text", ARGUMENTS)
def test_scores_are_vws(text: str, tmp_path: Path):
    text = text if "-b " in text else f"-b 16 {text}"
    case = learned(text, seed=7, scratch=tmp_path)
    assert np.count_nonzero(case.weights) > 3
    assert_agrees(case, tmp_path)


def exact_score(args: ModelArgs, weights: npt.NDArray[np.float32], item: bytes, shared: bytes) -> float:
    """Term by term in float64, straight from VW's definition; slow and independent of the kernel."""
    mask = (1 << args.bits) - 1
    groups: dict[str, list[tuple[int, float]]] = {}
    for hashed in (hash_resolved(item), hash_resolved(shared)):
        for letter, index, value in zip(*(part.tolist() for part in hashed), strict=True):
            groups.setdefault(chr(letter), []).append((index, value))
    cost = 0.0 if args.noconstant else float(weights[CONSTANT & mask])
    for letter, features in groups.items():
        if letter not in args.ignore_linear:
            cost += sum(float(weights[index & mask]) * value for index, value in features)

    def cross(term: str, first: int, half: int, product: float) -> float:
        """``first``: where to begin in this letter's features; half: hash so far, times the prime."""
        total = 0.0
        for place, (index, value) in enumerate(groups.get(term[0], [])[first:], first):
            joined = (half ^ index) & 0xFFFFFFFF
            if len(term) == 1:
                total += float(weights[joined & mask]) * product * value
            else:
                repeated = place if term[1] == term[0] else 0
                total += cross(term[1:], repeated, joined * PRIME & 0xFFFFFFFF, product * value)
        return total

    return -(cost + sum(cross(term, 0, 0, 1.0) for term in args.terms("".join(groups))))


@pytest.mark.parametrize("text", ["-q UI -q CI", "-q II --noconstant", "-q ::", "--cubic :::", "--cubic sIU"])
def test_scores_are_exact_sums(text: str, tmp_path: Path):
    case = learned(f"-b 14 {text}", seed=11, scratch=tmp_path, n_items=6)
    exact = [
        [
            exact_score(case.args, case.weights, resolve_item(i, item), shared)
            for i, item in zip(case.ids, case.items, strict=True)
        ]
        for shared in case.requests
    ]
    allowed = TOLERANCE_OF_EXACT * np.maximum(1.0, sums_of_terms(case, np.abs(case.weights), np.abs))
    assert (np.abs(kernel_scores(case) - np.array(exact)) <= allowed).all()


letters = st.sampled_from("UUCISsta:")
random_arguments = st.tuples(
    st.sampled_from(["-b 10", "-b 14", "-b 18"]),
    st.lists(st.text(letters, min_size=2, max_size=3).map("--interactions {}".format), max_size=4).map(" ".join),
    st.sampled_from(["", "", "--noconstant", "--ignore_linear U", "--ignore_linear ISs --noconstant"]),
    st.sampled_from(["", "", "-l 0.1", "--power_t 0", "--l1 0.001", "--l2 0.01", "--sparse_l2 0.01"]),
).map(" ".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random_arguments, st.integers(0, 2**32))
def test_scores_are_vws_for_random_arguments_and_features(tmp_path: Path, text: str, seed: int):
    assert_agrees(learned(text, seed, tmp_path, n_lessons=40, n_items=6), tmp_path)


def test_scores_beyond_the_rewards_seen_are_not_clipped(tmp_path: Path):
    """VW clips predictions to the labels seen, but not the scores of actions."""
    args = ModelArgs.parse("-b 12")
    with Learner(args, scratch=tmp_path) as learner:
        for _ in range(20):
            learner.learn(b"{}", resolve_item("v", {"x": 1}), reward=1.0)
        model = learner.save()
    items = [{"x": 1000}, {"x": -1000}]
    table = ItemTable(2)
    rows = table.add(["v", "v"], [msgspec.json.encode(item) for item in items])
    case = Case(
        args, model, weights_from_model(model, args), table.view(), rows, ["v", "v"], items,
        [resolve_shared("u", {}, {})],
    )  # fmt: skip
    assert np.abs(kernel_scores(case)).min() > 100
    assert_agrees(case, tmp_path)


def test_any_subset_in_any_order_gives_the_same_bits(tmp_path: Path):
    case = learned("-b 14 -q UI --cubic ICU -q II", seed=5, scratch=tmp_path)
    shared = hash_resolved(case.requests[0])
    whole = np.empty(len(case.rows), np.float32)
    score(case.view, case.rows, shared, case.weights, case.args, whole)
    prepared = prepare(case.view, shared, case.weights, case.args)
    rng = np.random.default_rng(1)
    for _ in range(20):
        chosen = rng.permutation(len(case.rows))[: rng.integers(1, len(case.rows))]
        part = np.empty(len(chosen), np.float32)
        score_prepared(prepared, case.view, case.rows[chosen], case.weights, part)
        assert np.array_equal(part, whole[chosen])


def test_rows_added_later_change_no_score(tmp_path: Path):
    """Not even where they bring namespaces that wildcards reach."""
    case = learned("-b 14 -q :: --cubic U:I", seed=5, scratch=tmp_path)
    shared = hash_resolved(case.requests[1])
    table = ItemTable(100)
    rows = table.add(case.ids, [msgspec.json.encode(item) for item in case.items])
    before, after = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    score(table.view(), rows, shared, case.weights, case.args, before)
    table.add(["new"], [b'{"zone":{"a":1},"Ant":{"b":2},"9":{"c":"x"}}'])
    score(table.view(), rows, shared, case.weights, case.args, after)
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-7)


def test_a_model_that_learned_nothing_scores_zero(tmp_path: Path):
    args = ModelArgs.parse("-b 12 -q ::")
    with Learner(args, scratch=tmp_path) as learner:
        model = learner.save()
    state = read_state(model)
    assert (state.n_learned, state.bits, state.gravity, state.contraction) == (0, 12, 0.0, 1.0)
    table = ItemTable(1)
    rows = table.add(["v"], [b""])
    out = np.ones(1, np.float32)
    score(table.view(), rows, hash_resolved(b"{}"), weights_from_model(model, args), args, out)
    assert out.tolist() == [0.0]


# -- damaged models -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return learned("-b 12 -q UI", seed=1, scratch=tmp_path_factory.mktemp("model"))


def test_every_truncation_inside_the_header_is_refused(sound: Case):
    for length in range(read_state(sound.model).weights_at):
        with pytest.raises(CorruptModel, match="last good one"):
            weights_from_model(sound.model[:length], sound.args)


def test_a_truncation_inside_a_record_is_refused(sound: Case):
    for cut in range(1, 16):
        with pytest.raises(CorruptModel, match="after the last whole weight"):
            weights_from_model(sound.model[:-cut], sound.args)


def test_every_bit_flipped_before_the_checksum_is_refused(sound: Case):
    end = sound.model.index(b"\0", sound.model.index(b"--hash all")) + 1 + 8
    for place in range(end):
        for bit in range(8):
            flipped = bytearray(sound.model)
            flipped[place] ^= 1 << bit
            if place < 11 and flipped[4:6] == b"9.":  # The version itself is outside the checksum.
                continue
            with pytest.raises(CorruptModel):
                weights_from_model(bytes(flipped), sound.args)


def test_weights_that_are_no_numbers_or_out_of_place_are_refused(sound: Case):
    at = read_state(sound.model).weights_at
    for piece, where in (
        (b"\x00\x00\xc0\x7f", at + 4),
        (b"\x00\x00\x80\xff", at + 4),
        (b"\xff\xff\xff\x00", at),
        (b"\xff\xff\xff\x7f", len(sound.model) - 16),
    ):
        broken = bytearray(sound.model)
        broken[where : where + 4] = piece
        with pytest.raises(CorruptModel):
            weights_from_model(bytes(broken), sound.args)


def test_other_bits_are_refused(sound: Case):
    with pytest.raises(CorruptModel, match="12 bits; expected are 13"):
        weights_from_model(sound.model, ModelArgs.parse("-b 13"))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_no_model(junk: bytes):
    with pytest.raises(CorruptModel):
        weights_from_model(junk, ModelArgs.parse(""))


def test_weights_are_those_of_vw(sound: Case, tmp_path: Path):
    path = tmp_path / "m.vw"
    path.write_bytes(sound.model)
    vw = Workspace(f"{sound.args.vw_command()} -i {path}")
    assert np.array_equal(sound.weights, np.array([vw.get_weight(i) for i in range(1 << 12)], np.float32))
    vw.finish()
