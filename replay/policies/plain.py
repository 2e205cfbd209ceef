"""The policy that made the log, and the one that knows nothing."""

from __future__ import annotations

import numpy as np

from replay.errors import BadPolicy
from replay.events import Assignment, Batch, Needs
from replay.policies.base import PolicyBase, candidate_starts, place_of_slot, uncovered


class Logged(PolicyBase):
    """What was in production: its value is known, as the mean of what was earned."""

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """The logged propensities themselves: every weight is 1."""
        return Assignment(batch.propensity, None)

    def largest_weight(self, batch: Batch, assignment: Assignment) -> float:
        """1: target and logging policy are the same."""
        return 1.0


class Uniform(PolicyBase):
    """Each candidate of a slot with the same probability, of those not shown above it."""

    def needs(self, pmf: bool) -> Needs:
        """The candidates, if their probabilities are wanted; else how many there were, which every batch has."""
        return Needs(candidates=pmf)

    def assign(self, batch: Batch, pmf: bool) -> Assignment:
        """
        :raises BadPolicy: the log does not say how many candidates there were
        """
        if len(batch.n_candidates) and batch.n_candidates.min() < 1:
            slot = int(np.argmin(batch.n_candidates))
            raise BadPolicy(
                f"policy {self.name} needs to know how many candidates there were, and {place_of_slot(batch, slot)} "
                f"says {batch.n_candidates[slot]}; log it, or give a table"
            )
        share = 1.0 / batch.n_candidates
        if not pmf and batch.candidates is None:
            return Assignment(share, None)
        whole = np.repeat(share, np.diff(candidate_starts(batch)))
        return Assignment(share, whole if pmf else None, uncovered=uncovered(batch, whole))
