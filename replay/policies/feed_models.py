"""Models that policies over feeds score with: files, versions of the log, and whatever served at each decision."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.errors import CorruptModel, UnsupportedArgument
from bandit.features.hashing import hash_resolved
from bandit.features.model_args import ModelArgs
from bandit.learning.lessons import READ_AT_ONCE
from bandit.ranking.ranker import DENSE_IDX
from bandit.ranking.scorer import read_state, score, weights_from_model
from bandit.records import Decision
from bandit.store.log import LogRow
from bandit.store.models import PublishedModel, digest_of
from replay.beginning import beginning
from replay.errors import BadPolicy
from replay.readers.service import ServiceLog
from replay.readers.service_feeds import Feeds

#: Weights of the last models that served, kept for decisions that come a little out of order.
KEPT_BYTES: Final = 64 << 20
_NEWEST: Final = "newest"

# What VW writes into every model of this kind, with the number of values that follow.
_OF_COURSE: Final = {
    "--cb_adf": 0, "--cb_explore_adf": 0, "--csoaa_ldf": 1, "--csoaa_rank": 0, "--epsilon": 1, "--first_only": 0,
}  # fmt: skip


class Model(NamedTuple):
    """A model ready to score.

    :ivar weights: shape (2 ** args.bits,)
    :ivar n_learned: outcomes that it has learned from
    :ivar learned_until: position of the log up to which it has; None for a file, of which that is not known
    """

    weights: NDArray[np.float32]
    args: ModelArgs
    n_learned: int
    learned_until: int | None = None


def scores_of(model: Model, feeds: Feeds, i: int, arm: str | None = None) -> NDArray[np.float32]:
    """Scores of all candidates of a decision, in the caller's order, by the kernel that serves.

    With what the service knew of them when it drew that decision, and not what it has known since.

    :param arm: whose knowledge it is, if not that of the decision's own arm; see `Feeds.dense`
    :raises BadLog: the log lacks an item version, or gives other statistics than the decision saw
    """
    numbers = feeds.versions[feeds.of[i] : feeds.of[i + 1]]
    view, rows = feeds.items.rows(numbers)
    shared = feeds.hashed.get(i)
    if shared is None:
        # Several policies ask for the same.
        shared = feeds.hashed[i] = hash_resolved(bytes(feeds.entries[i].decision.shared))
    scores = np.empty(len(numbers), np.float32)
    dense = feeds.dense(i, arm)
    if dense is None:
        score(view, rows, shared, model.weights, model.args, scores)
    else:
        columns = DENSE_IDX[: dense.shape[1]]
        score(view, rows, shared, model.weights, model.args, scores, dense_idx=columns, dense=dense)
    return scores


def find_model(text: str, log: ServiceLog) -> Model:
    """The model that a spec names: a file, a published version (or how it begins), or ``newest``.

    :raises BadPolicy: there is none, its file is not kept any more, or the kernel cannot score with it
    """
    if Path(text).is_file():
        return read_model(Path(text))
    published = log.published()
    kept = [one for one in published if (log.models.folder / f"{one.digest}.vw").is_file()]
    if text == _NEWEST:
        found = [one for one in kept if one.arm is None][:1]
    else:
        # A model that learned nothing new is published again under the same version.
        found = list({one.digest: one for one in kept if one.digest.startswith(text)}.values())
    if len(found) == 1:
        return _of_log(found[0], log)
    names = list(dict.fromkeys(one.digest for one in kept))
    there = f"kept are {', '.join(names[:20])}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    if len(found) > 1:
        why = f"{len(found)} versions begin with {text!r}"
    elif text != _NEWEST and any(one.digest.startswith(text) for one in published):
        why = f"the file of model {text!r} is not kept any more"
    else:
        why = f"{text!r} is neither a file nor a model version of this log"
    raise BadPolicy(f"{why}; {there if names else 'no model file is kept'}", kept=names)


def read_model(path: Path) -> Model:
    """A model that VW saved.

    :raises BadPolicy: no model, or one that the kernel would not score as VW does
    """
    try:
        model = path.read_bytes()
        state = read_state(model)
        args = _arguments(state.options, state.bits)
        return Model(weights_from_model(model, args), args, state.n_learned)
    except (CorruptModel, UnsupportedArgument) as error:
        raise BadPolicy(f"{path}: {error.message}") from None
    except OSError as error:
        raise BadPolicy(f"{path} cannot be read ({error.strerror})") from None


def _arguments(options: str, bits: int) -> ModelArgs:
    """:raises UnsupportedArgument: names what the kernel does not cover"""
    words = options.replace("=", " ").split()
    rest: list[str] = []
    hashed = "strings"
    at = 0
    while at < len(words):
        word = words[at]
        if word in _OF_COURSE:
            at += 1 + _OF_COURSE[word]
            continue
        value = words[at + 1] if at + 1 < len(words) else ""
        if word == "--cb_type":
            if value != "mtr":
                raise UnsupportedArgument(f"it learned with --cb_type {value}; feeds are scored by models of type mtr")
        elif word == "--hash":
            hashed = value
        elif word == "--hash_seed" and value == "0":
            pass
        else:
            rest.append(word)
            at += 1
            continue
        at += 2
    if "--cb_adf" not in words and "--cb_explore_adf" not in words:
        raise UnsupportedArgument(f"it learned with {options!r}, and not with --cb_adf or --cb_explore_adf")
    if hashed != "all":
        raise UnsupportedArgument(f"it learned with --hash {hashed}; the features of a feed are hashed with --hash all")
    return ModelArgs.parse(f"-b {bits} {' '.join(rest)}")


def _of_log(published: PublishedModel, log: ServiceLog) -> Model:
    try:
        model = log.models.read(published.digest)
        return Model(weights_from_model(model, log.args), log.args, published.learned, published.position)
    except CorruptModel as error:
        raise BadPolicy(error.message) from None


class History:
    """The models that served, one after the other as decisions ask for them.

    A service keeps the files of its newest models only. The others are built again from the log, by the trainer's
    own fold, and checked against the digest that was published.

    :param log: as opened; its base begins the fold
    """

    def __init__(self, log: ServiceLog) -> None:
        self._log = log
        self._published: dict[str, PublishedModel] = {}
        # Of arms that learned apart: what was published together, by arm, the champion's under None; oldest first.
        self._together: dict[int, dict[str | None, PublishedModel]] = {}
        for one in reversed(log.published()):
            # Of several that are the same the first was at hand first.
            self._published.setdefault(one.digest, one)
            self._together.setdefault(one.published_pos, {})[one.arm] = one
        self._apart_at = [at for at, together in self._together.items() if len(together) > 1]
        most = KEPT_BYTES // (4 << log.args.bits)
        self._most = max(2, int(most))
        self._kept: OrderedDict[str, Model] = OrderedDict()
        self._fold: _Again | None = None

    def in_order(self, digests: Sequence[str | None]) -> list[int]:
        """Places of these, so that models come in the order in which they were made."""
        return sorted(range(len(digests)), key=lambda i: self._position(digests[i]))

    def _position(self, digest: str | None) -> int:
        published = self._published.get(digest or "")
        return 0 if published is None else published.position

    def of_arm(self, arm: str, decision: Decision, position: int) -> PublishedModel | None:
        """What would have served another arm of a decision's experiment, where arms learned apart.

        :param position: of the decision
        :returns: None where it is the model that did serve
        """
        for at in reversed(self._apart_at[: bisect_left(self._apart_at, position)]):
            together = self._together[at]
            whose = decision.arm if decision.arm in together else None
            experiment = next(one.experiment for one in together.values() if one.arm is not None)
            if experiment == decision.experiment and together[whose].digest == decision.model:
                found = together.get(arm, together[None])
                return None if found.digest == decision.model else found
        return None

    def model(self, digest: str) -> Model:
        """The model that was published under this digest.

        :raises BadPolicy: the log does not give it
        """
        found = self._kept.pop(digest, None)
        if found is None:
            found = self._load(digest)
        self._kept[digest] = found
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return found

    def _load(self, digest: str) -> Model:
        published = self._published.get(digest)
        if published is None:
            raise BadPolicy(f"a decision names the model {digest}, which the log does not say was published")
        if (self._log.models.folder / f"{digest}.vw").is_file():
            return _of_log(published, self._log)
        if self._fold is None or self._fold.position > published.position:
            self.close()
            self._fold = _Again(self._log)
        if self._fold.position > published.position:
            raise BadPolicy(
                f"model {digest} is not kept any more, and cannot be built again: the log begins at position "
                f"{self._fold.position}, and that model held it up to {published.position}; leave out what was decided "
                "by such models, or evaluate what needs none"
            )
        model = self._fold.model_at(published.position, published.arm)
        if digest_of(model) != digest:
            raise BadPolicy(
                f"model {digest} is not kept any more, and the log gives another one here: models are the same byte "
                "for byte with the same VW on the same kind of processor; `replay rebuild` tells more"
            )
        return Model(weights_from_model(model, self._log.args), self._log.args, published.learned)

    def close(self) -> None:
        """Give the learner's memory back, if there was one."""
        if self._fold is not None:
            self._fold.close()
            self._fold = None


class _Again:
    """The log, learned once more from its base."""

    def __init__(self, log: ServiceLog) -> None:
        self._log = log.log
        scratch = tempfile.mkdtemp(prefix="replay-")
        # Whoever asked for the policies need not close them.
        self._remove = weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        begin = beginning(self._log, log.path)
        self._course = begin.course(self._log, begin.learner(Path(scratch)), scratch=Path(scratch))

    @property
    def position(self) -> int:
        return self._course.position

    def model_at(self, position: int, arm: str | None) -> bytes:
        """What was saved once the record at a position, not before the last one asked for, was folded.

        :param arm: whose model it was, where arms learned apart; None: the champion's
        """
        for row in self._rows(position):
            self._course.take(row)
        learners = self._course.learners
        return learners[learners.champion if arm is None else arm].save()

    def _rows(self, position: int) -> Iterator[LogRow]:
        while self._course.position < position:
            rows = self._log.read(self._course.position, min(READ_AT_ONCE, position - self._course.position))
            rows = [row for row in rows if row.pos <= position]
            if not rows:
                return
            yield from rows

    def close(self) -> None:
        self._course.learners.close()
        self._remove()
