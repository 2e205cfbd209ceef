"""A model that VW saved, with an explorer over its scores: ``greedy``, ``epsilon``, ``softmax``, ``squarecb``.

Where the model is linear and the features are plain, scores come from the kernel that serves; else from VW's own
``predict``, event by event, which gives the same numbers more slowly.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from vowpalwabbit import Workspace

from bandit.errors import CorruptModel, InvalidConfig, UnsupportedArgument
from bandit.features.model_args import WILDCARD, ModelArgs
from bandit.ranking.scorer import read_state, weights_from_model
from bandit.slate.explorers import Explorer, epsilon_greedy, greedy, softmax, squarecb
from replay.errors import BadPolicy
from replay.events import Assignment, Batch, Log, Needs
from replay.policies.base import (
    PolicyBase,
    candidate_starts,
    number,
    of_chosen,
    place_of_slot,
    split_options,
    uncovered,
)
from replay.policies.rows import Hasher, events_of_candidates, explored, scores
from replay.readers.service_texts import whole_texts

_COMMON: Final = {
    "floor": "share of uniform exploration on top, from 0 to 1",
    "shortlist": "how many of the best the explorer sees; 0 (all) if not given",
}
OPTIONS: Final[dict[str, dict[str, str]]] = {
    "greedy": _COMMON,
    "epsilon": {"epsilon": "share of uniform exploration, from 0 to 1 (0.1 if not given)", **_COMMON},
    "softmax": {"lambda": "greediness, at least 0 (1 if not given)", **_COMMON},
    "squarecb": {
        "gamma_scale": "greediness, at least 0 (10 if not given)",
        "gamma_exponent": "how it grows with experience, at least 0 (0.5 if not given)",
        "n_learned": "outcomes that the model has learned from (as the model says if not given)",
        **_COMMON,
    },
}
# What VW saves with a linear model that says nothing of how weights make a score; how many values follow.
_NO_MATTER: Final = {
    "--bit_precision": 1, "--cb_adf": 0, "--cb_explore_adf": 0, "--cb_type": 1, "--csoaa_ldf": 1, "--csoaa_rank": 0,
    "--hash": 1, "--hash_seed": 1, "--initial_regressor": 1, "--json": 0, "--no_stdin": 0, "--quiet": 0,
    "--testonly": 0, "--epsilon": 1, "--softmax": 0, "--lambda": 1, "--squarecb": 0, "--gamma_scale": 1,
    "--gamma_exponent": 1, "--elim": 0, "--first": 1, "--first_only": 0, "--sgd": 0, "--adaptive": 0,
    "--normalized": 0, "--invariant": 0, "--random_seed": 1, "--no_predict": 0, "--cb_min_cost": 1,
    "--cb_max_cost": 1, "--learning_rate": 1, "--power_t": 1, "--initial_t": 1, "--clip_p": 1, "--dsjson": 0,
    "--preserve_performance_counters": 0, "--save_resume": 0,
}  # fmt: skip
# Learners whose stack gives a score that is the sum of weights; explorers among them only reshape it.
_LINEAR: Final = frozenset(
    {
        "gd", "scorer-identity", "csoaa_ldf-rank", "cb_adf", "shared_feature_merger", "generate_interactions",
        "cb_explore_adf_greedy", "cb_explore_adf_softmax", "cb_explore_adf_squarecb",
        "cb_explore_adf_first",
    }
)  # fmt: skip
_SHRINKING: Final = frozenset({"--l1", "--l2"})


class Model(NamedTuple):
    """A model that scores.

    :ivar weights: for the kernel; empty where it does not know the model, and VW must score
    :ivar args: the same; None there
    :ivar scorer: VW itself, without an explorer: gives scores of any features
    """

    weights: NDArray[np.float32]
    args: ModelArgs | None
    hash_all: bool
    n_learned: int | None
    scorer: Workspace


def load_model(spec: str, path: Path) -> Model:
    """
    :raises BadPolicy: no such file, no model, or one whose predictions are not sums of its weights
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadPolicy(f"{spec}: there is no file {path}") from None
    except OSError as error:
        raise BadPolicy(f"{spec}: {path} cannot be read: {error}") from None
    if not re.match(rb"[\x04-\x14]\x00\x00\x00\d+\.\d+\.\d+\x00", data):
        raise BadPolicy(f"{spec}: {path} is not a model that VW saved")
    vw = _workspace(spec, ["-i", str(path), "-t", "--json", "--quiet", "--no_stdin"])
    learners = set(vw.get_enabled_learners())
    words = shlex.split(vw.get_arguments())
    hash_all = _value(words, "--hash") == "all"
    explorers = sorted(each for each in learners if "explore" in each)
    odd = sorted(learners - _LINEAR)
    # The doubly robust and direct methods keep a second set of weights among the first.
    linear = not odd and (_value(words, "--cb_type") or "mtr") in ("mtr", "ips")
    if "cb_adf" not in learners or (explorers and not linear):
        made_by = f"--cb_type {_value(words, '--cb_type')}" if not odd else ", ".join(odd)
        vw.finish()
        raise BadPolicy(
            f"{spec}: {path} was made by VW's {made_by}; understood are linear models of --cb_explore_adf with one "
            "policy in them (--cb_type mtr or ips), and any of --cb_adf"
        )
    n_learned: int | None = None
    weights, args = np.empty(0, np.float32), None
    try:
        if linear:
            weights, args, n_learned = _read(data, vw, words)
    except CorruptModel as error:
        vw.finish()
        raise BadPolicy(f"{spec}: {path}: {error.message}") from None
    if not explorers:
        return Model(weights, args, hash_all, n_learned, vw)
    vw.finish()
    return Model(weights, args, hash_all, n_learned, _scorer(spec, words, weights))


def _read(data: bytes, vw: Workspace, words: list[str]) -> tuple[NDArray[np.float32], ModelArgs | None, int | None]:
    """
    :raises CorruptModel: it was cut short, or shrinks its weights in a way that cannot be read
    """
    bits = int(_value(words, "--bit_precision") or 18)
    args: ModelArgs | None
    try:
        args = ModelArgs.parse(f"-b {bits} {shlex.join(_that_matter(words))}")
        # A pair of one letter is hashed in the order of its features, which a log's own texts are free to choose.
        if any(WILDCARD in term or len(set(term)) < len(term) for term in args.interactions):
            args = None
    except UnsupportedArgument:
        args = None
    if not {"--sgd", "--adaptive", "--normalized", "--invariant"} & set(words):
        try:
            state = read_state(data)
        except CorruptModel:
            pass  # An explorer's own state stands between; as with other kinds of records, VW alone can read it.
        else:
            return weights_from_model(data, args or ModelArgs(bits=bits)), args, state.n_learned
    if _SHRINKING & set(words):
        raise CorruptModel("it was made with --l1 or --l2, by an explorer or learner that keeps more than weights")
    return np.fromiter(map(vw.get_weight, range(vw.num_weights())), np.float32, vw.num_weights()), args, None


def _scorer(spec: str, words: list[str], weights: NDArray[np.float32]) -> Workspace:
    """VW with these weights, and no explorer."""
    kept = ["--cb_adf", "-t", "--json", "--quiet", "--no_stdin"]
    kept += ["-b", str(len(weights).bit_length() - 1), *_that_matter(words, drop_learning=True)]
    for name in ("--hash", "--hash_seed"):
        value = _value(words, name)
        if value is not None:
            kept += [name, value]
    vw = _workspace(spec, kept)
    for i in np.flatnonzero(weights).tolist():
        vw.set_weight(i, 0, float(weights[i]))
    return vw


def _that_matter(words: list[str], *, drop_learning: bool = False) -> list[str]:
    kept: list[str] = []
    at = 0
    learning = {"--l1", "--l2", "--sparse_l2"} if drop_learning else set()
    while at < len(words):
        name, equals, _ = words[at].partition("=")
        if name in _NO_MATTER:
            at += 1 if equals else 1 + _NO_MATTER[name]
        elif name in learning:
            at += 1 if equals else 2
        else:
            kept.append(words[at])
            at += 1
    return kept


def _value(words: list[str], name: str) -> str | None:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(name + "="):
            return word[len(name) + 1 :]
    return None


def _workspace(spec: str, arguments: list[str]) -> Workspace:
    try:
        return Workspace(arg_list=arguments)
    except RuntimeError as error:
        raise BadPolicy(f"{spec}: VW refuses it: {error}") from None


class VwModel(PolicyBase):
    """An explorer over the scores of a saved model."""

    def __init__(self, name: str, spec: str, kind: str, path: Path, options: dict[str, str]) -> None:
        super().__init__(name, spec)
        self._kind = kind
        self._path = path
        self._options = options
        self._floor = number(spec, "floor", options.get("floor", "0"), 0.0, 1.0)
        self._shortlist = int(number(spec, "shortlist", options.get("shortlist", "0"), 0, 1e9))
        self._model: Model | None = None
        self._explorer_of(0)  # Wrong options are to be found before anything is read.

    def needs(self, pmf: bool) -> Needs:
        """Features of event and candidates."""
        return Needs(candidates=True, texts=True)

    def prepare(self, log: Log) -> None:
        """
        :raises BadPolicy: the model cannot be loaded, or the explorer lacks what the model does not say
        """
        model = load_model(self.spec, self._path)
        if self._kind == "squarecb" and "n_learned" not in self._options and model.n_learned is None:
            raise BadPolicy(f"{self.spec}: the model does not say how much it has learned; add ,n_learned=N")
        self._model = model
        self._explorer = self._explorer_of(model.n_learned or 0)
        self._hasher = Hasher(model.hash_all)

    def _explorer_of(self, n_learned: int) -> Explorer:
        def option(name: str, default: float) -> float:
            return number(self.spec, name, self._options.get(name, repr(default)), 0.0, np.inf)

        try:
            if self._kind == "epsilon":
                return epsilon_greedy(epsilon=option("epsilon", 0.1))
            if self._kind == "softmax":
                return softmax(lambda_=option("lambda", 1.0))
            if self._kind == "squarecb":
                return squarecb(
                    gamma_scale=option("gamma_scale", 10.0),
                    gamma_exponent=option("gamma_exponent", 0.5),
                    n_learned=int(option("n_learned", n_learned)),
                )
        except InvalidConfig as error:
            raise BadPolicy(f"{self.spec}: {error.message}") from None
        return greedy()

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """
        :raises BadPolicy: the log has no features, or not of this place
        """
        assert self._model is not None, "prepare comes first"
        if batch.texts is None:
            raise BadPolicy(
                f"{self.spec} ranks by features, and this log has none; convert it to dsjson with its features, or "
                "give probabilities (table:, column:, propensities:)"
            )
        starts = candidate_starts(batch)
        values = self._scores(self._model, batch, starts)
        bad = ~np.isfinite(values)
        if bad.any():
            slot = int(np.searchsorted(starts, int(np.argmax(bad)), side="right")) - 1
            raise BadPolicy(f"{self.spec}: the model's score at {place_of_slot(batch, slot)} is not finite")
        whole = explored(values, starts, explorer=self._explorer, shortlist=self._shortlist, floor=self._floor)
        return Assignment(of_chosen(whole, batch, starts), whole if pmf else None, uncovered=uncovered(batch, whole))

    def _scores(self, model: Model, batch: Batch, starts: Any) -> NDArray[np.float32]:
        assert batch.texts is not None
        event = events_of_candidates(batch.starts, starts)
        if model.args is not None:
            shared = self._hasher.many(batch.texts.shared)
            table = self._hasher.rows(whole_texts(batch)) if not isinstance(shared, int) else 0
            if not isinstance(shared, int) and not isinstance(table, int):
                return scores(shared, *table, event, model.weights, model.args)
        return self._by_vw(model.scorer, batch, starts)

    def _by_vw(self, vw: Workspace, batch: Batch, starts: Any) -> NDArray[np.float32]:
        """Scores by VW's own predict: any features, one slot after the other."""
        assert batch.texts is not None
        out, texts = np.empty(int(starts[-1]), np.float32), whole_texts(batch)
        bounds = starts.tolist()
        for event, (first, last) in enumerate(zip(batch.starts[:-1].tolist(), batch.starts[1:].tolist(), strict=True)):
            members = batch.texts.shared[event].strip()[1:-1].strip()
            for slot in range(first, last):
                begin, end = bounds[slot], bounds[slot + 1]
                listed = b",".join(texts[begin:end])
                text = b"{" + members + (b"," if members else b"") + b'"_multi":[' + listed + b"]}"
                try:
                    examples = vw.parse(text.decode())
                except (RuntimeError, UnicodeDecodeError) as error:
                    raise BadPolicy(
                        f"{self.spec}: VW cannot read the features at {place_of_slot(batch, slot)}: {error}"
                    ) from None
                try:
                    predicted = vw.predict(examples)
                finally:
                    vw.finish_example(examples)
                if len(predicted) != end - begin:
                    raise BadPolicy(f"{self.spec}: VW cannot read the features at {place_of_slot(batch, slot)}")
                out[begin:end] = predicted
        return -out


def parse_model(name: str, spec: str) -> VwModel:
    """``greedy:MODEL``, ``epsilon:MODEL,epsilon=.1`` and so on.

    :raises BadPolicy: no such file, an option that is not known or not in range
    """
    kind, _, rest = spec.partition(":")
    path, options = split_options(rest, OPTIONS[kind])
    if not path:
        raise BadPolicy(f"{spec} names no model; give {kind}:MODEL, a file that VW saved")
    if not Path(path).is_file():
        raise BadPolicy(f"{spec}: there is no file {path}")
    return VwModel(name, spec, kind, Path(path), options)
