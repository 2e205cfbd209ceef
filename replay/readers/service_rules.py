"""Feed rules of logged decisions: bound again to their candidates, and what they left at each slot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bandit.records import Decision
from bandit.slate import ruling
from bandit.slate.binding import NOTHING, Bound, Restrictions
from bandit.slate.drawing import slot_probabilities
from bandit.slate.explorers import greedy
from bandit.slate.rules import NotInterested, Quota, Rule, Seen, name_of
from bandit.statistics.attributes import Attributes
from replay.errors import BadPolicy
from replay.readers.service_items import I32, U32, ItemVersions

Bools = NDArray[np.bool_]


def bound_again(decision: Decision, rules: Sequence[Rule], versions: U32, items: ItemVersions) -> Bound:
    """The rules of a decision as they held for its candidates.

    :param rules: of its config
    :raises BadLog: the log lacks an item version
    """
    if not rules and not decision.pins:
        return NOTHING
    return ruling.again(rules, items.attributes(versions), decision, len(versions))


def bound_otherwise(decision: Decision, own: Sequence[Rule], rules: Sequence[Rule], attributes: Attributes) -> Bound:
    """Other rules, bound to the candidates of a decision.

    What the decision does not say cannot be asked: what its viewer had seen or refused is known as far as its own
    rules looked.

    :param own: rules that it was made with
    :raises BadPolicy: these rules need what the decision does not say
    """
    for rule in rules:
        silent = isinstance(rule, Quota) or (isinstance(rule, Seen | NotInterested) and decision.user is not None)
        if silent and rule not in own:
            raise BadPolicy(
                f"the rules that are asked for have {name_of(rule)} otherwise than those that made the decision of "
                f"config {decision.config}, and it does not say what that would have meant; ask for rules with the "
                f"same {name_of(rule)}, or for an arm of an experiment that logged them",
                rule=name_of(rule),
                config=decision.config,
            )
    return ruling.again(rules, attributes, decision, len(attributes.item))


def pools(state: NDArray[np.uint8], at: I32, rules: Restrictions) -> Bools:
    """What could be drawn at each slot of a shown list; shape (slots, n)."""
    n_slots = len(at)
    floor = np.ones(n_slots)
    scores = np.zeros(len(state), np.float32)
    left = np.zeros((n_slots, len(state)), np.bool_)
    for slot in range(n_slots):
        left[slot] = (
            slot_probabilities(
                scores, state, at[:slot], slot=slot, explorer=greedy(), shortlist=1, floor=floor, rules=rules
            )
            > 0.0
        )
    return left
