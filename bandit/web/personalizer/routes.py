"""The table of the routes of Azure Personalizer."""

from __future__ import annotations

from typing import Final

from bandit.web.personalizer import loop, settings
from bandit.web.personalizer.types import (
    LogsProperties,
    ModelProperties,
    MultiSlotRank,
    MultiSlotRanked,
    MultiSlotReward,
    PersonalizerConfiguration,
    PersonalizerPolicy,
    PersonalizerRank,
    PersonalizerRanked,
    PersonalizerReward,
    PersonalizerSettings,
    PersonalizerStatus,
)
from bandit.web.routing import Route

_MULTISLOT: Final = "/personalizer/v1.1-preview.1/multislot"
_V1: Final = "/personalizer/v1.0"
_EVENT: Final = f"{_V1}/events/<path:event_id>"
_EVALUATION: Final = f"{_V1}/evaluations/<path:evaluation_id>"

ROUTES: Final = (
    Route("POST", f"{_V1}/rank", loop.personalizer_rank, "rank", "Personalizer: which of these actions?", 201,
          PersonalizerRank, PersonalizerRanked, (409, 413), hot=True),
    Route("POST", f"{_EVENT}/reward", loop.personalizer_reward, "feedback", "Personalizer: what an event earned", 204,
          PersonalizerReward, None, (413,)),
    Route("POST", f"{_EVENT}/activate", loop.personalizer_activate, "feedback", "Personalizer: an event was shown",
          204, None, None, (409,)),
    Route("POST", f"{_MULTISLOT}/rank", loop.multislot_rank, "rank", "Personalizer: which of these actions where?", 201,
          MultiSlotRank, MultiSlotRanked, (409, 413), hot=True),
    Route("POST", f"{_MULTISLOT}/events/<path:event_id>/reward", loop.multislot_reward, "feedback",
          "Personalizer: what slots of an event earned", 204, MultiSlotReward, None, (413,)),
    Route("POST", f"{_MULTISLOT}/events/<path:event_id>/activate", loop.multislot_activate, "feedback",
          "Personalizer: an event with slots was shown", 204, None, None, (409,)),
    Route("GET", f"{_V1}/configurations/service", settings.get_personalizer_configuration, "read",
          "Personalizer: the loop's settings", 200, None, PersonalizerConfiguration),
    Route("PUT", f"{_V1}/configurations/service", settings.put_personalizer_configuration, "admin",
          "Personalizer: change the loop's settings", 200, PersonalizerSettings, PersonalizerConfiguration,
          (412, 413)),
    Route("GET", f"{_V1}/configurations/policy", settings.get_personalizer_policy, "read",
          "Personalizer: VW's arguments", 200, None, PersonalizerPolicy),
    Route("PUT", f"{_V1}/configurations/policy", settings.put_personalizer_policy, "admin",
          "Personalizer: refused unless they are the same", 200, PersonalizerPolicy, PersonalizerPolicy, (413,)),
    Route("DELETE", f"{_V1}/configurations/policy", settings.delete_personalizer_policy, "admin",
          "Personalizer: refused unless they are the default", 200, None, PersonalizerPolicy),
    Route("GET", f"{_V1}/model", settings.get_personalizer_model, "read", "Personalizer: the model as a VW file", 200,
          None, None, (404,), media=settings.OCTETS),
    Route("DELETE", f"{_V1}/model", settings.delete_personalizer_model, "admin", "Personalizer: begin a fresh model",
          204, None, None, (), 202),
    Route("GET", f"{_V1}/model/properties", settings.get_personalizer_model_properties, "read",
          "Personalizer: since when the model learns", 200, None, ModelProperties),
    Route("GET", f"{_V1}/logs/properties", settings.get_personalizer_logs_properties, "read",
          "Personalizer: from when to when the log reaches", 200, None, LogsProperties),
    Route("DELETE", f"{_V1}/logs", settings.delete_personalizer_logs, "admin",
          "Personalizer: refused, with what to do instead", 204, None, None, (410,)),
    Route("GET", f"{_V1}/status", settings.get_personalizer_status, "read", "Personalizer: does it work", 200, None,
          PersonalizerStatus),
    Route("GET", f"{_V1}/evaluations", settings.list_personalizer_evaluations, "read",
          "Personalizer: refused, see python -m replay", 200, None, None, (410,)),
    Route("POST", f"{_V1}/evaluations", settings.create_personalizer_evaluation, "admin",
          "Personalizer: refused, see python -m replay", 201, None, None, (410,)),
    Route("GET", _EVALUATION, settings.get_personalizer_evaluation, "read",
          "Personalizer: there are none, see python -m replay", 200, None, None, (404,)),
    Route("DELETE", _EVALUATION, settings.delete_personalizer_evaluation, "admin",
          "Personalizer: there are none, see python -m replay", 204, None, None, (404,)),
)  # fmt: skip
