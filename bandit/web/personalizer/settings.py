"""What a Personalizer loop is set to, as far as this service has it, and what it says instead where it has not."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, get_args

from msgspec.structs import replace

from bandit import records
from bandit.config import VW_ARGUMENTS, Config, LiveConfig, at_door
from bandit.errors import InvalidConfig, NotFound, NotOffered, UnsupportedArgument, VersionMismatch
from bandit.features.model_args import ModelArgs
from bandit.reward.formula import Aggregation
from bandit.service import Service
from bandit.web.personalizer.types import (
    DateRange,
    LogsProperties,
    ModelProperties,
    PersonalizerConfiguration,
    PersonalizerPolicy,
    PersonalizerSettings,
    PersonalizerStatus,
)
from bandit.web.routing import Answer, Incoming

POLICY: Final = "feed-bandit"
OCTETS: Final = "application/octet-stream"
_AGGREGATIONS: Final = tuple(how for how in get_args(Aggregation) if how != "last")
_MODES: Final = {"serve": "Online", "apprentice": "Apprentice"}
# Another may put a config between reading and writing; so often it is read again.
_TRIES: Final = 5

# ---------------------------------------------------------------- durations

_ISO: Final = re.compile(
    r"^P(?:(\d{1,6})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,8})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?)?$", re.ASCII | re.IGNORECASE
)
_DOTNET: Final = re.compile(r"^(?:(\d{1,6})\.)?(\d{1,2}):(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)$", re.ASCII)


def seconds_of(text: str, *, name: str) -> float:
    """A duration in seconds: ISO 8601 without years and months, or .NET's ``d.hh:mm:ss``.

    >>> seconds_of("PT10M", name="rewardWaitTime"), seconds_of("1.02:00:30", name="rewardWaitTime")
    (600.0, 93630.0)

    :raises InvalidConfig: it is neither
    """
    found = _ISO.match(text) or _DOTNET.match(text)
    if found is None or not any(found.groups()):
        raise InvalidConfig(f"{name} {text[:60]!a} is no duration; write it like PT10M, PT5S, P1DT12H or 00:10:00")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return days * 86_400 + hours * 3_600 + minutes * 60 + seconds


def duration(seconds: float) -> str:
    """Seconds as an ISO 8601 duration.

    >>> duration(600), duration(93_630), duration(0.4), duration(0)
    ('PT10M', 'P1DT2H30S', 'PT0.4S', 'PT0S')
    """
    days, rest = divmod(round(seconds, 6), 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, rest = divmod(rest, 60)
    time = "".join(f"{value:.0f}{unit}" for value, unit in ((hours, "H"), (minutes, "M")) if value)
    if rest or not (days or time):
        time += f"{round(rest, 6):g}S"
    return "P" + (f"{days:.0f}D" if days else "") + (f"T{time}" if time else "")


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---------------------------------------------------------------- configurations/service


def get_personalizer_configuration(service: Service, http: Incoming) -> Answer:
    return Answer(200, _told(service, service.config()))


def put_personalizer_configuration(service: Service, http: Incoming) -> Answer:
    given: PersonalizerSettings = records.decode(http.body, PersonalizerSettings)
    for left in range(_TRIES - 1, -1, -1):
        live = service.config()
        wanted = _applied(service, live.document, given)
        if wanted == live.document:
            break
        try:
            live = service.put_config(wanted, expected=live.version)
            break
        except VersionMismatch:
            if not left:
                raise
    return Answer(200, _told(service, live))


def _told(service: Service, live: LiveConfig) -> PersonalizerConfiguration:
    document = at_door(live.document, "personalizer")
    settings = service.data.settings
    share = document.exploration.share
    return PersonalizerConfiguration(
        reward_wait_time=duration(document.reward_window_s),
        default_reward=document.default_reward,
        reward_aggregation=document.reward_aggregation or "earliest",
        exploration_percentage=1.0 if share is None else share,
        model_export_frequency=duration(settings.publish_ms / 1000),
        log_mirror_enabled=False,
        log_retention_days=_retention_days(settings.retain_days),
        last_configuration_edit_date=_utc(service.since().config),
        learning_mode=_MODES[document.mode],
        is_auto_optimization_enabled=False,
        is_inference_explainability_enabled=document.explain,
    )


def _retention_days(days: float) -> int:
    """Whole days, -1 for ever, as Personalizer has it."""
    return max(1, round(days)) if days else -1


def _applied(service: Service, document: Config, given: PersonalizerSettings) -> Config:
    """The config with these settings.

    :raises InvalidConfig: lists everything that this service does not have, or not like this
    """
    changes: dict[str, Any] = {}
    faults: list[str] = []
    asked: list[tuple[str, Any, Callable[[Any], Any]]] = [
        ("reward_window_s", given.reward_wait_time, _window),
        ("default_reward", given.default_reward, float),
        ("reward_aggregation", given.reward_aggregation, _aggregation),
        ("exploration", given.exploration_percentage, lambda p: replace(document.exploration, share=_share(p))),
        ("mode", given.learning_mode, _mode),
        ("explain", given.is_inference_explainability_enabled, bool),
    ]
    for field, value, read in asked:
        if value is not None:
            try:
                changes[field] = read(value)
            except InvalidConfig as error:
                faults.append(error.message)
    faults += _fixed(service, given)
    if faults:
        raise InvalidConfig("; ".join(faults), faults=faults)
    # What holds already, if only at this door, is not written down: what was read may be put back.
    told = at_door(document, "personalizer")
    return replace(document, **{field: value for field, value in changes.items() if getattr(told, field) != value})


def _fixed(service: Service, given: PersonalizerSettings) -> list[str]:
    """Of what a start settles, or nobody does here, what was asked for and is otherwise."""
    settings = service.data.settings
    faults = []
    if given.model_export_frequency is not None:
        try:
            asked_s = seconds_of(given.model_export_frequency, name="modelExportFrequency")
            if round(asked_s * 1000) != settings.publish_ms:
                faults.append(
                    f"modelExportFrequency is {duration(settings.publish_ms / 1000)}, which the service was started "
                    f"with; for {given.model_export_frequency} start it with --publish-ms {round(asked_s * 1000)}"
                )
        except InvalidConfig as error:
            faults.append(error.message)
    kept = _retention_days(settings.retain_days)
    if given.log_retention_days is not None and given.log_retention_days != kept:
        asked = 0 if given.log_retention_days == -1 else given.log_retention_days
        faults.append(
            f"logRetentionDays is {kept}, which the service was started with; for {given.log_retention_days} start it "
            f"with --retain-days {asked}"
        )
    if given.log_mirror_enabled:
        faults.append("logMirrorEnabled must be false: the log is a file of your own, data/log.db; copy that")
    if given.is_auto_optimization_enabled:
        faults.append(
            "isAutoOptimizationEnabled must be false: policies are compared by `python -m replay evaluate`, and a "
            "person decides"
        )
    return faults


def _window(text: str) -> float:
    seconds = seconds_of(text, name="rewardWaitTime")
    if not 0.1 <= seconds <= 30 * 86_400:
        raise InvalidConfig(f"rewardWaitTime is {text}; allowed is PT0.1S to P30D")
    return seconds


def _aggregation(text: str) -> str:
    if text.lower() not in _AGGREGATIONS:
        raise InvalidConfig(f"rewardAggregation is {text[:60]!a}; allowed are {', '.join(_AGGREGATIONS)}")
    return text.lower()


def _share(percentage: float) -> float | None:
    if not 0.0 < percentage <= 1.0:
        raise InvalidConfig(
            f"explorationPercentage is {percentage}; allowed is above 0, up to 1 (a share, 0.2 for 20 %). What nothing "
            "explores teaches nothing, and no other policy can ever be evaluated on it"
        )
    # Of all placements: no limit.
    return None if percentage == 1.0 else percentage


def _mode(text: str) -> str:
    found = {name.lower(): mode for mode, name in _MODES.items()}.get(text.lower())
    if found is None:
        raise InvalidConfig(
            f"learningMode is {text[:60]!a}; allowed are Online and Apprentice (which logs and learns; there is no "
            "LoggingOnly)"
        )
    return found


# ---------------------------------------------------------------- configurations/policy


def get_personalizer_policy(service: Service, http: Incoming) -> Answer:
    return Answer(200, PersonalizerPolicy(POLICY, service.data.args.text))


def put_personalizer_policy(service: Service, http: Incoming) -> Answer:
    given: PersonalizerPolicy = records.decode(http.body, PersonalizerPolicy)
    try:
        same = ModelArgs.parse(given.arguments) == service.data.args
        why = ""
    except UnsupportedArgument as error:
        same, why = False, f" ({error.message})"
    if not same:
        raise _fixed_policy(service, given.arguments[:200], why)
    return Answer(200, PersonalizerPolicy(given.name, service.data.args.text))


def delete_personalizer_policy(service: Service, http: Incoming) -> Answer:
    if ModelArgs.parse(VW_ARGUMENTS) != service.data.args:
        raise _fixed_policy(service, VW_ARGUMENTS, "")
    return get_personalizer_policy(service, http)


def _fixed_policy(service: Service, asked: str, why: str) -> InvalidConfig:
    return InvalidConfig(
        f"the model of this data directory learns with {service.data.args.text!r} for its life, not with "
        f"{asked!r}{why}. Exploration is set by PUT configurations/service or PUT /v1/config; for other arguments "
        "start a new data directory with --vw, and warm it up: python server.py warm-start",
        arguments=service.data.args.text,
        given=asked,
    )


# ---------------------------------------------------------------- model, logs, status


def get_personalizer_model(service: Service, http: Incoming) -> Answer:
    return Answer(200, service.model_file(), media=OCTETS)


def delete_personalizer_model(service: Service, http: Incoming) -> Answer:
    return Answer(204 if service.reset_model() else 202)


def get_personalizer_model_properties(service: Service, http: Incoming) -> Answer:
    since = service.since()
    return Answer(200, ModelProperties(_utc(since.model), _utc(since.learned)))


def get_personalizer_logs_properties(service: Service, http: Incoming) -> Answer:
    since = service.since()
    return Answer(200, LogsProperties(DateRange(_utc(since.log), _utc(since.record))))


def delete_personalizer_logs(service: Service, http: Incoming) -> Answer:
    raise NotOffered(
        "the log is what models are rebuilt and policies evaluated from, and is not deleted by a request: start with "
        "--retain-days to delete what is older, erase a viewer with DELETE /v1/users/{id}, or stop the service and "
        "begin another data directory"
    )


def get_personalizer_status(service: Service, http: Incoming) -> Answer:
    problems = service.problems()
    return Answer(
        200,
        PersonalizerStatus("personalizer", "Degraded" if problems else "Valid", "; ".join(problems) or "it works"),
    )


# ---------------------------------------------------------------- evaluations


_ELSEWHERE: Final = (
    "evaluations are not made by requests here: `python -m replay evaluate DATA --policy ...` says what other policies "
    "would have earned on this log, with intervals; see docs/evaluating.md"
)


def list_personalizer_evaluations(service: Service, http: Incoming) -> Answer:
    raise NotOffered(_ELSEWHERE)


def create_personalizer_evaluation(service: Service, http: Incoming) -> Answer:
    raise NotOffered(_ELSEWHERE)


def get_personalizer_evaluation(service: Service, http: Incoming, evaluation_id: str) -> Answer:
    raise NotFound(f"there is no evaluation {evaluation_id[:80]!a}; {_ELSEWHERE}")


def delete_personalizer_evaluation(service: Service, http: Incoming, evaluation_id: str) -> Answer:
    return get_personalizer_evaluation(service, http, evaluation_id)
