"""The live config document (an API resource, versioned in the log) and the settings of a start."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from bandit.errors import BanditError, InvalidConfig, InvalidSetting, LogUnavailable, UnsupportedArgument
from bandit.experiments import Experiment, apart_of, arm_of, experiment_faults, laid_over
from bandit.features.model_args import ModelArgs
from bandit.learning.guard import Guard, check_guard
from bandit.records import MAX_SLOTS, Door
from bandit.reward.formula import Aggregation, Formula
from bandit.reward.presets import DEFAULT, resolved
from bandit.reward.signals import DERIVED, WATCHED, Watch, WatchTable, faults_of
from bandit.slate.exploration import Budget, Exploration, annealed, budget_of, warnings_of
from bandit.slate.explorers import Explorer, epsilon_greedy, greedy, softmax, squarecb, uniform
from bandit.slate.rules import Rule, default_rules, rule_faults

# ---------------------------------------------------------------- explorers


class SquareCB(Struct, forbid_unknown_fields=True, tag_field="kind", tag="squarecb"):
    """Inverse gap weighting: p = 1 / (M + gamma * gap), gamma = gamma_scale * learned ** gamma_exponent.

    Source: Foster and Rakhlin, "Beyond UCB", 2020; VW's ``--squarecb``.
    """

    gamma_scale: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    gamma_exponent: Annotated[float, Meta(ge=0, le=1)] = 1.0

    def explorer(self, n_learned: int) -> Explorer:
        return squarecb(gamma_scale=self.gamma_scale, gamma_exponent=self.gamma_exponent, n_learned=n_learned)


AnnealAfter = Annotated[int, Meta(ge=1, le=10**12)]


class EpsilonGreedy(Struct, forbid_unknown_fields=True, tag_field="kind", tag="epsilon_greedy"):
    """The best with 1 - epsilon; otherwise any of the shortlist.

    With `anneal_after` epsilon falls as slots are learned: epsilon * (1 + learned / anneal_after) **
    -anneal_exponent, and never below `least`. The exponent of 1/3 gives epsilon-greedy its rate of regret.

    Source: Langford and Zhang, "The Epoch-Greedy Algorithm", 2007.
    """

    epsilon: Annotated[float, Meta(ge=0, le=1)] = 0.1
    anneal_after: AnnealAfter | None = None
    anneal_exponent: Annotated[float, Meta(ge=0, le=1)] = 1 / 3
    least: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def explorer(self, n_learned: int) -> Explorer:
        now = annealed(self.epsilon, n_learned, after=self.anneal_after, exponent=-self.anneal_exponent)
        return epsilon_greedy(epsilon=max(now, min(self.least, self.epsilon)))


class Softmax(Struct, forbid_unknown_fields=True, tag_field="kind", tag="softmax"):
    """p proportional to exp(lambda * score); slot by slot this is Plackett-Luce.

    With `anneal_after` lambda grows as slots are learned: lambda * (1 + learned / anneal_after) **
    anneal_exponent, and never above 1e6. An exponent of 1/2 follows the standard error of what was learned.
    """

    lambda_: Annotated[float, Meta(ge=0, le=1e6)] = msgspec.field(default=10.0, name="lambda")
    anneal_after: AnnealAfter | None = None
    anneal_exponent: Annotated[float, Meta(ge=0, le=1)] = 0.5

    def explorer(self, n_learned: int) -> Explorer:
        now = annealed(self.lambda_, n_learned, after=self.anneal_after, exponent=self.anneal_exponent)
        return softmax(lambda_=min(now, 1e6))


class Greedy(Struct, forbid_unknown_fields=True, tag_field="kind", tag="greedy"):
    """The best, always (the floor still explores)."""

    def explorer(self, n_learned: int) -> Explorer:
        return greedy()


class Uniform(Struct, forbid_unknown_fields=True, tag_field="kind", tag="uniform"):
    """Any of the shortlist alike."""

    def explorer(self, n_learned: int) -> Explorer:
        return uniform()


#: The fallback's draw over the caller's own order.
CALLER_ORDER = epsilon_greedy(epsilon=0.1)

ExplorerConfig = SquareCB | EpsilonGreedy | Softmax | Greedy | Uniform

# ---------------------------------------------------------------- learning


class ConstantWeight(Struct, forbid_unknown_fields=True, tag_field="kind", tag="constant"):
    """Every learned slot weighs the same."""

    weight: Annotated[float, Meta(ge=1, le=100)] = 1.0

    def weight_of(self, propensity: float) -> float:
        return self.weight


class IpsWeight(Struct, forbid_unknown_fields=True, tag_field="kind", tag="ips"):
    """1 / propensity, never above ``clamp``."""

    clamp: Annotated[float, Meta(ge=1, le=1_000)] = 10.0

    def weight_of(self, propensity: float) -> float:
        # A probability may be rounded to a shade above 1, and a weight below 1 cannot be learned.
        return max(1.0, min(1.0 / propensity, self.clamp))


class Signal(Struct, forbid_unknown_fields=True):
    """What one signal means.

    `combine`: how repeated reports become one value. `evidence`: the client sends it for every seen
    item whatever the outcome (as it does watch time), so that it proves that the slot was seen. A like
    is no such evidence: taken as one, it would teach that whatever is seen is liked. With `above` a
    signal that is sent for some outcomes only proves that the slots *above* were seen, never its own.
    """

    combine: Literal["sum", "max", "last"] = "max"
    evidence: bool | Literal["above"] = False


SignalName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$(?!\n)")]
Phi = Annotated[float, Meta(ge=0, le=1)]


class Drawing(NamedTuple):
    """All that settles a draw but scores and rules.

    :ivar asked: the explorer as configured
    :ivar shortlist: 0 for none
    :ivar floors: phi of each slot
    :ivar most: what all but the best may get together, of the explorer's part; see `bandit.slate.drawing.limited`
    :ivar by_caller: the caller's order stands for scores
    """

    asked: Explorer
    shortlist: int
    floors: tuple[float, ...]
    most: float
    by_caller: bool


class Config(Struct, forbid_unknown_fields=True):
    """All that may change while the service runs; replaced whole, checked whole.

    `floor` is the share of each slot's draw that is uniform over all eligible candidates, one number or
    one for each slot (the last holds for the rest). With 0, replay must refuse targets that differ there.
    `reward` is a formula over the signals and what is worked out from them (`watch`, `completion`, `rewatch`,
    `length_s`), or `preset:NAME`, which is stored as its formula.
    `mode`: `apprentice` serves the caller's order, learns from it, and reports what it would have earned itself.
    `rules` are feed rules, the strongest first: where they leave nothing for a slot, the last give way first.
    `reward_aggregation`: what several explicit rewards of one placement come to; without it the last one holds, and
    at Personalizer's routes, as there, the earliest. `explain`: those routes say what made the score.
    `stayed_s`: who watches for so long, or to the end, has stayed, which statistics count; 0: it is not counted.
    """

    explorer: ExplorerConfig = msgspec.field(default_factory=SquareCB)
    shortlist: Annotated[int, Meta(ge=1, le=10_000)] | None = 50
    floor: Phi | Annotated[list[Phi], Meta(min_length=1, max_length=MAX_SLOTS)] = 0.02
    slots: Annotated[int, Meta(ge=1, le=MAX_SLOTS)] = 10
    learning_weight: ConstantWeight | IpsWeight = msgspec.field(default_factory=ConstantWeight)
    reward: Annotated[str, Meta(min_length=1, max_length=1_000)] = DEFAULT
    reward_range: tuple[float, float] = (-10.0, 10.0)
    signals: Annotated[dict[SignalName, Signal], Meta(max_length=64)] = msgspec.field(
        default_factory=lambda: {
            "watch_s": Signal(combine="max", evidence=True),
            "skip": Signal(combine="max", evidence="above"),
            "like": Signal(combine="last"),
            "comment": Signal(combine="sum"),
            "share": Signal(combine="sum"),
            "follow": Signal(combine="last"),
            "not_interested": Signal(combine="max"),
            "report": Signal(combine="max"),
        }
    )
    evidence: Literal["viewport", "served"] = "viewport"
    reward_window_s: Annotated[float, Meta(ge=0.1, le=30 * 86_400)] = 600.0
    default_reward: float = 0.0
    reward_aggregation: Aggregation | None = None
    explain: bool = False
    exploration: Exploration = msgspec.field(default_factory=Exploration)
    watch: WatchTable = msgspec.field(default_factory=WatchTable)
    stayed_s: Annotated[float, Meta(ge=0, le=3_600)] = 0.0
    guard: Guard = msgspec.field(default_factory=Guard)
    mode: Literal["serve", "apprentice"] = "serve"
    experiment: Experiment | None = None
    rules: Annotated[list[Rule], Meta(max_length=16)] = msgspec.field(default_factory=default_rules)

    def __post_init__(self) -> None:
        # Here, so that no config exists, and none is stored, whose reward another release could read otherwise.
        self.reward = resolved(self.reward)
        for arm in self.experiment.arms if self.experiment is not None else []:
            if isinstance(arm.config.get("reward"), str):
                arm.config["reward"] = resolved(arm.config["reward"])

    def floors(self, n_slots: int) -> list[float]:
        """phi of each slot as configured, shape (n_slots,); what is drawn with is in :meth:`budget`."""
        given = self.floor if isinstance(self.floor, list) else [self.floor]
        return [given[min(slot, len(given) - 1)] for slot in range(n_slots)]

    def budget(self, n_slots: int) -> Budget:
        """Floors and the explorer's limit for a feed of so many slots, within ``exploration.share``."""
        return budget_of(self.exploration.share, tuple(self.floors(n_slots)))

    def drawing(self, n_slots: int, n_learned: int, *, fallback: bool) -> Drawing:
        """How a feed of so many slots is drawn, before the explorer's limit is worked out from the scores.

        :param fallback: nothing could be scored
        """
        if self.mode == "apprentice":
            return Drawing(greedy(), 0, (self.exploration.apprentice,) * n_slots, 1.0, by_caller=True)
        floors, most = self.budget(n_slots)
        if fallback:
            return Drawing(CALLER_ORDER, 0, floors, most, by_caller=True)
        return Drawing(self.explorer.explorer(n_learned), self.shortlist or 0, floors, most, by_caller=False)

    @property
    def rules_in_force(self) -> list[Rule]:
        """The feed rules; an apprentice leaves the caller's order as it is."""
        return [] if self.mode == "apprentice" else self.rules

    def warnings(self) -> list[str]:
        """What it costs to run this config, in words; empty if there is nothing to say."""
        if self.mode == "apprentice":
            return warnings_of(self.exploration, self.drawing(self.slots, 0, fallback=False).floors, mode=self.mode)
        return warnings_of(self.exploration, self.floors(self.slots))


class LoggedConfig(Config, forbid_unknown_fields=True):
    """A config as the log holds it: what was written before a setting existed ran without it."""

    rules: list[Rule] = []
    stayed_s: float = 0.0

    def whole(self) -> Config:
        """The document, with everything in it."""
        return Config(**{name: getattr(self, name) for name in Config.__struct_fields__})


def at_door(document: Config, door: Door | None) -> Config:
    """The config as it holds for decisions through a door.

    At Personalizer's what was activated counts as seen, so that it earns the default reward unless another comes, and
    no feed rule holds: what was shown before may be shown again.
    """
    if door is None:
        return document
    aggregation = document.reward_aggregation or "earliest"
    return msgspec.structs.replace(document, rules=[], evidence="served", reward_aggregation=aggregation)


def check_config(config: Config) -> Formula:
    """The compiled reward formula of a config that is sound as a whole.

    :raises InvalidConfig: the parts do not fit together; the message lists every fault
    """
    faults = []
    formula = Formula(config.reward)
    unknown = sorted(formula.names - config.signals.keys() - DERIVED.keys())
    if unknown:
        faults.append(f"reward uses {', '.join(unknown)}, which signals does not list; add it there")
    derived = sorted(formula.names & DERIVED.keys() - config.signals.keys())
    if derived and WATCHED not in config.signals:
        faults.append(f"reward uses {', '.join(derived)}, worked out from {WATCHED}, which signals does not list")
    faults += faults_of(config.watch)
    low, high = config.reward_range
    if not -1e6 <= low < high <= 1e6:
        faults.append(f"reward_range is [{low}, {high}]; it must rise, within -1e6 to 1e6")
    elif not low <= config.default_reward <= high:
        faults.append(f"default_reward {config.default_reward} is outside reward_range [{low}, {high}]")
    faults += check_guard(config.guard)
    if config.experiment is not None:
        faults += _faults_of_arms(config, config.experiment)
    faults += rule_faults(config.rules)
    if faults:
        raise InvalidConfig("; ".join(faults), faults=faults)
    return formula


def _faults_of_arms(config: Config, experiment: Experiment) -> list[str]:
    """Each arm is checked whole, like a config; only then the experiment."""
    faults = []
    documents = []
    for arm in experiment.arms:
        try:
            document: Config = laid_over(config, arm)
            documents.append(document)
            check_config(document)
        except BanditError as error:
            told = error.message.removeprefix(f"arm {arm.name!r}")
            faults.append(f"arm {arm.name!r}{told if told != error.message else ': ' + told}")
    return faults or experiment_faults(experiment, documents)


@dataclass(frozen=True)
class LiveConfig:
    """A config version as it is in force: the document, and what is worked out from it once.

    :ivar arm: of the document's experiment, if this is how the config is there
    """

    version: int
    document: Config
    arm: str | None = None

    @cached_property
    def arms(self) -> dict[str, LiveConfig]:
        """The config as it is in each arm, by name."""
        experiment = self.document.experiment
        return {
            arm.name: LiveConfig(self.version, laid_over(self.document, arm), arm.name)
            for arm in (experiment.arms if experiment is not None else [])
        }

    @cached_property
    def personalizer(self) -> LiveConfig:
        """The config as it is at Personalizer's door."""
        return LiveConfig(self.version, at_door(self.document, "personalizer"), self.arm)

    def of(self, arm: str | None, door: Door | None = None) -> LiveConfig:
        """The config as it is in an arm and at a door; itself without either.

        :raises LogUnavailable: a decision names an arm that its config has not
        """
        if door is not None:
            return self.of(arm).personalizer
        if arm is None:
            return self
        if arm not in self.arms:
            raise LogUnavailable(f"the log is damaged: it names arm {arm!r}, which config {self.version} does not have")
        return self.arms[arm]

    def serving(self, *, viewer: str | None, event_id: str) -> LiveConfig:
        """What serves a request: the arm that the viewer is in, if there is an experiment."""
        experiment = self.document.experiment
        if experiment is None:
            return self
        return self.arms[arm_of(experiment, viewer=viewer, event_id=event_id).name]

    @cached_property
    def formula(self) -> Formula:
        return check_config(self.document)

    @cached_property
    def watch(self) -> Watch:
        return Watch(self.document.watch)

    @property
    def etag(self) -> str:
        return f'"{self.version}"'


def own_label(configs: Mapping[int, LiveConfig], version: int, arm: str | None) -> str | None:
    """Under what name an arm that learns apart has statistics of its own; None: it shares those of all feeds.

    :param configs: all versions up to ``version``, which say since when it learns apart: who begins again is another
    """
    apart = apart_of(configs[version].document.experiment)
    if apart is None or arm is None:
        return None
    began = version
    while (before := configs.get(began - 1)) is not None:
        other = apart_of(before.document.experiment)
        if other is None or other.experiment != apart.experiment or arm not in (other.champion, *other.others):
            break
        began -= 1
    return f"{apart.experiment}/{arm}/{began}"


def own_labels(configs: Mapping[int, LiveConfig]) -> list[str]:
    """Those of all arms that learn apart under the newest of these configs."""
    newest = max(configs, default=0)
    apart = apart_of(configs[newest].document.experiment) if configs else None
    labels = [own_label(configs, newest, arm) for arm in ((apart.champion, *apart.others) if apart is not None else ())]
    return [label for label in labels if label is not None]


# ---------------------------------------------------------------- settings of a start


@dataclass(frozen=True)
class Setting:
    """One row of the table below."""

    name: str
    default: Any
    unit: str
    help: str


#: Of the learner of a new data directory, if nobody says otherwise.
VW_ARGUMENTS: Final = "-b 18 -q CI -q CF --ignore_linear CI -l 0.2"

#: Everything a start can be told, by ``--name`` or the environment's ``FEED_BANDIT_NAME``.
SETTINGS = (
    Setting("data", "data", "directory", "where the log and the models live; made if missing"),
    Setting("host", "127.0.0.1", "address", "address to listen on"),
    Setting("port", 8080, "port", "port to listen on"),
    Setting("workers", 0, "processes", "rank workers; 0: one less than the cores, at least 1, at most 8"),
    Setting("threads", 2, "threads", "requests that one worker handles at the same time"),
    Setting(
        "vw",
        "auto",
        "VW arguments",
        "of the learner; fixed for the life of a data directory; auto: those that it was begun with, of a new one "
        f"{VW_ARGUMENTS!r}",
    ),
    Setting("durable", True, "yes/no", "reply only after fsync; no: a power cut may lose the last second"),
    Setting("publish_ms", 400, "milliseconds", "shortest time between two published models"),
    Setting("tick_s", 1.0, "seconds", "longest time without a record while windows are open"),
    Setting("cache_items", 200_000, "items", "hashed candidates that a worker keeps, at most"),
    Setting("keep_models", 20, "models", "newest published models whose files are kept"),
    Setting("guard", False, "yes/no", "compare what serves with a champion, beside it, and roll back (docs/feed.md)"),
    Setting("retain_days", 0.0, "days", "records that are older are deleted; 0: none is"),
    Setting("retain_gb", 0.0, "gigabytes", "oldest records are deleted when the log holds more; 0: none is"),
    Setting("pseudonymise", False, "yes/no", "store keyed hashes in place of the ids of viewers (docs/feed.md)"),
    Setting("max_body_mb", 16, "megabytes", "largest request body"),
    Setting(
        "keys",
        "auto",
        "on/off/auto",
        "whether requests need an API key; auto: unless only this machine can reach the address (docs/operations.md)",
    ),
    Setting("queue", 64, "requests", "that may wait for a worker while it works on others; more are refused with 503"),
    Setting(
        "queue_ms",
        100.0,
        "milliseconds",
        "that a request may wait for its turn before it is refused with 503; a tenth once a queue stands",
    ),
    Setting("rate_limit", 0.0, "requests/s", "that a worker grants each key; 0: no limit"),
    Setting(
        "demo",
        "auto",
        "on/off/auto",
        "the demo at /feed; auto: where only this machine can reach the address, and it asks before it puts anything "
        "into a log that others use",
    ),
    Setting("log_format", "text", "text/json", "of stderr; json: also a line for every request (docs/operations.md)"),
)


@dataclass(frozen=True)
class Settings:
    """Checked settings, frozen for the life of a process; see `SETTINGS`."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    threads: int = 2
    vw: str = "auto"
    durable: bool = True
    publish_ms: int = 400
    tick_s: float = 1.0
    cache_items: int = 200_000
    keep_models: int = 20
    guard: bool = False
    max_body_mb: int = 16
    retain_days: float = 0.0
    retain_gb: float = 0.0
    pseudonymise: bool = False
    keys: str = "auto"
    queue: int = 64
    queue_ms: float = 100.0
    rate_limit: float = 0.0
    demo: str = "auto"
    log_format: str = "text"

    @property
    def needs_keys(self) -> bool:
        """Whether requests need an API key."""
        return self.keys == "on" or (self.keys == "auto" and not is_loopback(self.host))

    def environment(self) -> dict[str, str]:
        """The same settings as environment variables, for child processes."""
        return {f"FEED_BANDIT_{setting.name.upper()}": str(getattr(self, setting.name)) for setting in SETTINGS}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; of a name that is not ``localhost`` nobody knows, so: no.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("feed.example")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def default_workers() -> int:
    """One less than the cores that this process may use (the trainer has one), from 1 to 8."""
    return max(1, min(8, len(os.sched_getaffinity(0)) - 1))


def read_settings(given: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Defaults, then the environment, then what was given on the command line.

    :param given: settings by name, as text
    :raises InvalidSetting: lists every fault, not only the first
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        variable = f"FEED_BANDIT_{setting.name.upper()}"
        text = given.get(setting.name, environ.get(variable))
        if text is None:
            values[setting.name] = setting.default
            continue
        set_by = f"(set by --{setting.name.replace('_', '-')} or {variable})"
        try:
            values[setting.name] = _parse(text, type(setting.default))
        except ValueError:
            faults.append(f"{setting.name} is {text!r}; expected {setting.unit} such as {setting.default!r} {set_by}")
            continue
        fault = _fault_of(setting.name, values[setting.name])
        if fault is not None:
            faults.append(f"{fault} {set_by}")
    known = {f"FEED_BANDIT_{setting.name.upper()}" for setting in SETTINGS}
    faults += [
        f"environment variable {name} is no setting; known are {', '.join(sorted(known))}"
        for name in environ
        if name.startswith("FEED_BANDIT_") and name not in known
    ]
    if faults:
        raise InvalidSetting("\n".join(faults), faults=faults)
    values["data"] = Path(values["data"]).resolve()
    values["workers"] = values["workers"] or default_workers()
    settings = Settings(**values)
    faults = _contradictions(settings)
    if faults:
        raise InvalidSetting("\n".join(faults), faults=faults)
    return settings


def _contradictions(settings: Settings) -> list[str]:
    """What each setting may be, and not all of them together."""
    faults = []
    if settings.keys == "off" and not is_loopback(settings.host):
        faults.append(
            f"host is {settings.host!r}, which others may reach, and keys is 'off'; without keys it listens on "
            "127.0.0.1 alone: leave --keys away, and make a key with `python server.py keys create`"
        )
    if settings.rate_limit and not settings.needs_keys:
        faults.append("rate_limit is a limit for each key, and no keys are asked for here; add --keys on")
    return faults


_LIMITS: dict[str, tuple[float, float]] = {
    "port": (1, 65_535),
    "workers": (0, 64),
    "threads": (1, 64),
    "publish_ms": (10, 600_000),
    "tick_s": (0.05, 3_600),
    "cache_items": (20_000, 50_000_000),
    "keep_models": (2, 10_000),
    "max_body_mb": (1, 1_024),
    "retain_days": (0, 36_500),
    "retain_gb": (0, 100_000),
    "queue": (0, 10_000),
    "queue_ms": (0, 60_000),
    "rate_limit": (0, 1_000_000),
}


def _fault_of(name: str, value: Any) -> str | None:
    """Why a setting cannot have this value, though it is of the right type."""
    if name in _LIMITS:
        low, high = _LIMITS[name]
        return None if low <= value <= high else f"{name} is {value}; it must be from {low} to {high}"
    if name in ("data", "host"):
        return None if value else f"{name} is empty"
    if name in ("keys", "demo"):
        return None if value in ("on", "off", "auto") else f"{name} is {value!r}; it must be on, off or auto"
    if name == "log_format":
        return None if value in ("text", "json") else f"log_format is {value!r}; it must be text or json"
    if name == "vw" and value != "auto":
        try:
            ModelArgs.parse(value)
        except UnsupportedArgument as error:
            return f"vw is {value!r}: {error.message}"
    return None


def _parse(text: str, type_: type) -> Any:
    if type_ is bool:
        if text.lower() in ("yes", "true", "1", "on"):
            return True
        if text.lower() in ("no", "false", "0", "off"):
            return False
        raise ValueError(text)
    return type_(text)
