"""Reward models: what would this candidate have earned? Cross-fitted, so that no event is predicted by what saw it."""

from replay.reward_model.model import KINDS, RewardModel

__all__ = ["KINDS", "RewardModel"]
