"""How a policy draws one logged decision: serving's own code, asked for probabilities."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bandit.slate.binding import NOTHING, Bound
from bandit.slate.drawing import ELIGIBLE, slate_propensity, slot_probabilities
from bandit.slate.explorers import Explorer
from replay.errors import Unsupported
from replay.events import F64, U8
from replay.readers.service_feeds import Feeds
from replay.readers.service_items import I32
from replay.readers.service_rules import Bools


class Draw(NamedTuple):
    """Everything that settles how likely any list is for one decision.

    :ivar scores: shape (n,), by candidate in the caller's order
    :ivar state: shape (n,), what is eligible
    :ivar at: shape (slots,): what was shown, as places among the candidates
    :ivar floor: shape (slots,)
    :ivar rules: feed rules, and ``left``, shape (slots, n), what those of the log left at each slot; None for all that
        is eligible and not above
    """

    scores: NDArray[np.float32]
    state: U8
    at: I32
    explorer: Explorer
    shortlist: int
    floor: F64
    rules: Bound = NOTHING
    left: Bools | None = None

    @classmethod
    def of(
        cls,
        feeds: Feeds,
        i: int,
        scores: NDArray[np.float32],
        explorer: Explorer,
        shortlist: int,
        floor: F64,
        rules: Bound | None = None,
    ) -> Self:
        """Of the decision at place ``i``.

        :param floor: shape (S,), of all slots of the batch
        :param rules: None for those that it was made with
        """
        slots = slice(feeds.starts[i], feeds.starts[i + 1])
        return cls(
            scores, feeds.state[feeds.of[i] : feeds.of[i + 1]], feeds.at[slots], explorer, shortlist, floor[slots],
            feeds.rules(i) if rules is None else rules, feeds.pools.get(i),
        )  # fmt: skip

    def propensity(self) -> F64:
        """Shape (slots,): how likely what was shown is at each slot, given the slots above."""
        return self.of_list(self.at)

    def of_list(self, at: I32) -> F64:
        """Shape (len(at),): :meth:`propensity` of another list, or of the top of one."""
        return slate_propensity(
            self.scores, self.state, at, explorer=self.explorer, shortlist=self.shortlist, floor=self.floor,
            rules=self.rules.restrictions,
        )  # fmt: skip

    def pmf(self, slot: int) -> F64:
        """Shape (n,): how likely every candidate is at a slot, given what was shown above it."""
        return self.after(self.at[:slot], slot)

    def after(self, above: I32, slot: int) -> F64:
        """Shape (n,): how likely every candidate is at a slot, given these above it; in any order if no rules hold."""
        return slot_probabilities(
            self.scores,
            self.state,
            above,
            slot=slot,
            explorer=self.explorer,
            shortlist=self.shortlist,
            floor=self.floor,
            rules=self.rules.restrictions,
        )

    def same_as(self, other: Draw) -> bool:
        """Whether both draw every list with the same probability, by all that settles it."""
        return (
            (self.explorer, self.shortlist) == (other.explorer, other.shortlist)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.floor, other.floor)
            and self.rules.restrictions.same_as(other.rules.restrictions)
        )

    def fill(self, out: F64) -> None:
        """The probabilities of all that was left at each slot, slot after slot.

        :param out: shape (candidates of all slots,), written
        """
        left = self.state == ELIGIBLE
        to = 0
        for slot, placed in enumerate(self.at.tolist()):
            p = self.pmf(slot)[left if self.left is None else self.left[slot]]
            out[to : to + len(p)] = p
            to += len(p)
            left[placed] = False

    def refuse_uncovered(self, position: int) -> None:
        """Refuse rules that would show what the rules of the log kept out.

        :param position: of the decision in the log
        :raises Unsupported: with the share of its choice at the first such slot as ``detail["uncovered"]``
        """
        left = self.state == ELIGIBLE
        for slot, placed in enumerate(self.at.tolist()):
            p = self.pmf(slot)
            uncovered = float(p[~(left if self.left is None else self.left[slot])].sum())
            if uncovered > 0.0:
                raise Unsupported(
                    f"the feed rules in force at position {position} kept out at slot {slot} what the target would "
                    f"show there ({uncovered:.1%} of its choice). Such a log does not answer; log with weaker rules, "
                    "or ask for rules that allow no more",
                    uncovered=uncovered,
                    position=position,
                    slot=slot,
                )
            left[placed] = False
