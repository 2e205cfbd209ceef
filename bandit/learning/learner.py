"""The one place that holds VW: learns slots, saves the model.

VW's Python objects can crash the process or leak (an example that is freed in part, outlives its
workspace, or is never finished). None of them leaves this class.
"""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from vowpalwabbit import Workspace

from bandit.errors import CorruptModel, InvalidRequest
from bandit.features.model_args import ModelArgs
from bandit.ranking.scorer import check_model

MAX_REWARD: Final = 1e6
MAX_WEIGHT: Final = 1e6


class Learner:
    """One model that learns, slot by slot.

    Same data in the same order give the same bytes; saving changes nothing of later bytes, and a learner
    that goes on from a save gives the bytes of one that never stopped. Not for several threads at once.

    :param model: what an earlier `save` returned; None begins anew
    :param scratch: a directory where files of this learner alone may stand for a moment; VW saves and
        loads by file name only
    :raises CorruptModel: ``model`` is truncated or of other arguments
    """

    _vw: Workspace | None

    def __init__(self, args: ModelArgs, model: bytes | None = None, *, scratch: Path) -> None:
        self.args = args
        self._scratch = scratch
        command = args.vw_command()
        if model is None:
            self._hold(Workspace(command))
            self._n_learned = 0
            return
        state, _ = check_model(model, args)
        self._load(model, state.n_learned)

    def _load(self, model: bytes, n_learned: int) -> None:
        path = self._file()
        try:
            path.write_bytes(model)
            # Without the counters predictions agree, but bytes differ from a learner that never stopped.
            self._hold(Workspace(f"{self.args.vw_command()} --preserve_performance_counters -i {path}"))
        except RuntimeError as error:
            raise CorruptModel(f"VW cannot load the model: {error}; take the last good one") from None
        finally:
            path.unlink(missing_ok=True)
        self._n_learned = n_learned

    @property
    def n_learned(self) -> int:
        """Slots learned since the model began, in this process or before."""
        return self._n_learned

    def learn(self, shared: bytes, item: bytes, *, reward: float, weight: float = 1.0) -> None:
        """Learn that this item, shown to this viewer, earned ``reward``.

        VW sees the chosen item alone, with label probability ``1 / weight``: its own normaliser (events
        over actions) is then 1, and the weight exactly what was asked for.

        :param shared: from `resolve_shared`
        :param item: from `resolve_item`
        :param reward: finite, at most a million either way
        :param weight: from a millionth to a million. Below 1 the label's probability is above 1, which VW's
            JSON parser takes as it is; its text parser would clip it
        :raises InvalidRequest: reward or weight outside; nothing was learned
        """
        if not (math.isfinite(reward) and abs(reward) <= MAX_REWARD):
            raise InvalidRequest(
                f"reward {reward} is not a number within {MAX_REWARD:g}; rescale it", given=repr(reward)
            )
        if not 1 / MAX_WEIGHT <= weight <= MAX_WEIGHT:
            raise InvalidRequest(
                f"weight {weight} is outside {1 / MAX_WEIGHT:g} to {MAX_WEIGHT:g}; leave out what weighs nothing",
                given=repr(weight),
            )
        vw = self._open()
        event = _event(shared, item, cost=0.0 - reward, probability=1.0 / weight)
        examples = vw.parse(event)
        try:
            vw.learn(examples)
        finally:
            # All of them and at once: a part would leak the rest, or read predictions that are not there.
            vw.finish_example(examples)
        self._n_learned += 1

    def save(self) -> bytes:
        """The model as VW saves it: what `Learner` goes on from and `weights_from_model` reads."""
        path = self._file()
        try:
            self._open().save(str(path))
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)

    def fork(self) -> Learner:
        """Another learner that stands where this one does, be it sound or not, and learns by itself from here on."""
        other = Learner.__new__(Learner)
        other.args, other._scratch = self.args, self._scratch
        other._load(self.save(), self._n_learned)
        return other

    def close(self) -> None:
        """Give VW's memory back; harmless when repeated."""
        self._vw = None
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, vw: Workspace) -> None:
        self._vw = vw
        # At the latest when the interpreter ends, and before VW's own destructor, which then fails.
        self._finish = weakref.finalize(self, vw.finish)

    def _open(self) -> Workspace:
        if self._vw is None:
            raise RuntimeError("the learner is closed")
        return self._vw

    def _file(self) -> Path:
        return self._scratch / f"learner-{uuid4().hex}.vw"


def _event(shared: bytes, item: bytes, *, cost: float, probability: float) -> str:
    """VW JSON of one slot: shared features, the one action, its label."""
    head = f'{{"_label_cost":{cost!r},"_label_probability":{probability!r},"_label_Action":1,"_labelIndex":0,'
    members = shared[1:-1].decode()
    return f'{head}{members}{"," if members else ""}"_multi":[{item.decode()}]}}'
