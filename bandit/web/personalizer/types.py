"""Requests and replies of Azure Personalizer v1.0 and v1.1-preview.1, as its OpenAPI documents have them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bandit.records import MAX_CANDIDATES, MAX_SLOTS, Candidate, CandidateId, Finite, Id

FeatureList = Annotated[
    msgspec.Raw,
    Meta(
        description="a list of objects; names to strings, numbers, booleans, lists, and objects of these",
        extra_json_schema={"type": ["array", "object", "null"], "items": {"type": ["object", "null"]}},
    ),
]


class RankableAction(Candidate, forbid_unknown_fields=True):
    """An action and its features."""

    features: FeatureList | UnsetType = UNSET


class PersonalizerRank(Struct, rename="camel", forbid_unknown_fields=True):
    """Which of these actions?"""

    actions: Annotated[list[RankableAction], Meta(min_length=1, max_length=MAX_CANDIDATES)]
    context_features: FeatureList | UnsetType = UNSET
    excluded_actions: Annotated[list[CandidateId], Meta(max_length=MAX_CANDIDATES)] | None = None
    event_id: Id | None = None
    defer_activation: bool | None = None


class RankedAction(Struct):
    """An action, and how likely it was to be the one that is rewarded; 0 if it was excluded."""

    id: str
    probability: float


class FeatureScore(Struct):
    """What a feature, or a cross of two (`a^b`), added to the score of an action."""

    name: str
    score: float


class ActionExplanation(Struct):
    """What made the score of an action."""

    id: str
    features: list[FeatureScore]


class PersonalizerRanked(Struct, rename="camel"):
    """All actions: the one that is rewarded, then the others by score; what was excluded stands where it stood."""

    ranking: list[RankedAction]
    event_id: str
    reward_action_id: str
    inference_explanation: list[ActionExplanation] | UnsetType = UNSET


class PersonalizerReward(Struct, forbid_unknown_fields=True):
    """What the rewarded action earned."""

    value: Finite


class SlotRequest(Struct, rename="camel", forbid_unknown_fields=True):
    """A place on the page, what it is like, what it may not show, and what would stand there without this service."""

    id: Id
    baseline_action: CandidateId
    features: FeatureList | UnsetType = UNSET
    excluded_actions: Annotated[list[CandidateId], Meta(max_length=MAX_CANDIDATES)] | None = None


class MultiSlotRank(Struct, rename="camel", forbid_unknown_fields=True):
    """Which of these actions at which slot?"""

    actions: Annotated[list[RankableAction], Meta(min_length=1, max_length=MAX_CANDIDATES)]
    slots: Annotated[list[SlotRequest], Meta(min_length=1, max_length=MAX_SLOTS)]
    context_features: FeatureList | UnsetType = UNSET
    event_id: Id | None = None
    defer_activation: bool | None = None


class SlotResponse(Struct, rename="camel"):
    """What is to stand at a slot."""

    id: str
    reward_action_id: str


class MultiSlotRanked(Struct, rename="camel"):
    """All slots, in the order sent."""

    slots: list[SlotResponse]
    event_id: str


class SlotReward(Struct, rename="camel", forbid_unknown_fields=True):
    """What a slot earned."""

    slot_id: Id
    value: Finite


class MultiSlotReward(Struct, forbid_unknown_fields=True):
    """What slots of a page earned."""

    reward: Annotated[list[SlotReward], Meta(min_length=1, max_length=1_000)]


class PersonalizerConfiguration(Struct, rename="camel"):
    """The settings of a Personalizer loop, as far as this service has them."""

    reward_wait_time: str
    default_reward: float
    reward_aggregation: str
    exploration_percentage: float
    model_export_frequency: str
    log_mirror_enabled: bool
    log_retention_days: int
    last_configuration_edit_date: str
    learning_mode: str
    is_auto_optimization_enabled: bool
    is_inference_explainability_enabled: bool


Text = Annotated[str, Meta(max_length=1_024)]


class PersonalizerSettings(Struct, rename="camel", forbid_unknown_fields=True):
    """Settings to be; what is left out stays as it is."""

    reward_wait_time: Text | None = None
    default_reward: Finite | None = None
    reward_aggregation: Text | None = None
    exploration_percentage: float | None = None
    model_export_frequency: Text | None = None
    log_mirror_enabled: bool | None = None
    log_mirror_sas_uri: Text | None = None
    log_retention_days: int | None = None
    last_configuration_edit_date: Text | None = None
    learning_mode: Text | None = None
    is_auto_optimization_enabled: bool | None = None
    auto_optimization_frequency: Text | None = None
    auto_optimization_start_date: Text | None = None
    is_inference_explainability_enabled: bool | None = None


class PersonalizerPolicy(Struct, forbid_unknown_fields=True):
    """How the model learns: VW's arguments."""

    name: Annotated[str, Meta(max_length=256)]
    arguments: Text


class ModelProperties(Struct, rename="camel"):
    """When the model was begun, and when it last learned."""

    creation_time: str
    last_modified_time: str


class DateRange(Struct, rename={"from_": "from"}):
    """From the oldest record to the newest."""

    from_: str
    to: str


class LogsProperties(Struct, rename="camel"):
    """What the log holds."""

    date_range: DateRange


class PersonalizerStatus(Struct, rename="camel"):
    """Whether the service works."""

    service: str
    api_status: str
    api_status_message: str

