"""The slow guard: is what serves worse than the champion? If it surely is, the champion serves again.

A *release* begins with a champion: the model that serves at that point, frozen. Every feed that was decided after it
is compared, once its window has ended, with what the champion's draw would have earned at the same slots (see
`bandit.learning.one_sided`). What serves goes on learning meanwhile: all its models were published before the feeds
that they decided, and the champion learned from none of them. Once the upper bound of (running - champion) is below
-`loss`, a ``rollback`` to the champion is logged. After `events` feeds without one what serves is the next champion,
and release k + 1 begins, with its own share of alpha.

It keeps nothing: after a start it reads on from the release's record and comes to the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Struct

from bandit.config import Config
from bandit.errors import BanditError, NothingPublished
from bandit.learning.guard import alpha_of_release
from bandit.learning.one_sided import LowerBound, clipped
from bandit.learning.serving import release
from bandit.records import Rollback
from bandit.store.configs import read_config
from bandit.store.log import EventLog, Txn
from bandit.store.models import newest_models
from bandit.store.serving import Comparison, Serving, append_rollback, serving, write_comparison
from replay.errors import BadLog
from replay.events import F64, Batch
from replay.policies.feed_policies import RankedFeed
from replay.readers.service_feeds import Feeds
from replay.readers.service_live import LiveLog

EVERY_S: Final = 10.0


class Look(Struct):
    """What the guard found at a look.

    :param status: ``compared``; ``rolled_back`` by this look; ``pinned`` since a rollback, so there is nothing to
        compare; ``waiting`` for a model that has learned enough; ``released``: this release has had its events, and
        the next has begun
    :param feeds: compared so far in this release
    :param estimate: of (running - champion), reward a slot; None without feeds
    :param upper: upper bound of the same, at all looks of this release together
    :param alpha: what this release may spend
    """

    status: Literal["compared", "rolled_back", "pinned", "waiting", "released"]
    release: int = 0
    champion: str | None = None
    feeds: int = 0
    estimate: float | None = None
    upper: float | None = None
    alpha: float | None = None


class ChampionFeed(RankedFeed):
    """The champion as it would serve: its scores, each decision's own config. Slots that were drawn without a floor
    are compared with nobody."""

    def compared(self, batch: Batch) -> tuple[F64, F64]:
        """Weights of what stands at each slot, and the most that they could have been; shape (S,) both.

        :raises BadPolicy: the log cannot be drawn again
        """
        feeds: Feeds = batch.source
        propensity, _ = self._assign(batch, feeds, False)
        known = feeds.least > 0.0
        w = np.where(known, np.minimum(propensity, 1.0) / batch.propensity, 1.0)
        return w, np.where(known, 1.0 / np.where(known, feeds.least, 1.0), 1.0)


class Comparing:
    """One release: its champion against what served after it began.

    :raises BadLog: the log cannot be read
    :raises BadPolicy: the champion's file is gone
    """

    def __init__(self, data: Path, now: Serving) -> None:
        assert now.champion is not None
        self.release, self.champion = now.release, now.champion
        self._log = LiveLog(data, after=now.release_pos)
        try:
            document = _config_at(self._log, now.release_pos)
            self.limits = document.guard.slow
            self.range = self.limits.reward_range or document.reward_range
            self.width = self.range[1] - self.range[0]
            self.alpha = alpha_of_release(self.limits.alpha, now.release)
            self.bound = LowerBound(centre=min(self.limits.loss / self.width, 1.0))
            self._policy = ChampionFeed("champion", f"feed:{now.champion}", model=now.champion)
            self._policy.prepare(self._log)
        except BaseException:
            self._log.close()
            raise

    def read_on(self) -> None:
        """Compare what has closed since the last look, up to the events of a release."""
        for batch in self._log.more():
            room = self.limits.events - self.bound.n
            if room <= 0:
                continue
            w, top = self._policy.compared(batch)
            starts = batch.starts[: room + 1]
            end = int(starts[-1])
            self.bound.add(w[:end], clipped(batch.reward, self.range)[:end], top[:end], starts)

    def look(self, status: Literal["compared", "rolled_back", "released"] = "compared") -> Look:
        """What is known now."""
        estimate = self.bound.estimate
        return Look(
            status=status,
            release=self.release,
            champion=self.champion,
            feeds=self.bound.n,
            estimate=None if estimate is None else -estimate * self.width,
            upper=-self.bound.lower(self.alpha) * self.width,
            alpha=self.alpha,
        )

    def close(self) -> None:
        self._policy.close()
        self._log.close()


def _config_at(log: LiveLog, position: int) -> Config:
    rows = [row for row in log.log.read_kinds(["config"]) if row.pos <= position]
    return read_config(rows[-1].payload).document


class SlowGuard:
    """Looks at a data directory now and then, beside its service, and acts.

    :param clock: UTC seconds, for the records that it writes
    :param act: False only looks: it neither begins a release nor rolls back
    :raises BadLog: there is no log
    """

    def __init__(self, data: Path, *, clock: Callable[[], float] = time.time, act: bool = True) -> None:
        if not (data / "log.db").is_file():
            raise BadLog(f"{data} is no data directory of a service: it holds no log.db")
        self._data = data
        self._act = act
        self._log = EventLog(data, durable=True, clock=clock)
        if act:
            self._log.migrate()
        self._comparing: Comparing | None = None

    def look(self) -> Look:
        """Read on, and act on what is known.

        :raises BanditError: it cannot look now; nothing was done, look again
        """
        now = serving(self._log)
        if now.pinned is not None:
            self._forget()
            return Look("pinned", now.release, now.pinned)
        if now.champion is None:
            return self._begin()
        if self._comparing is None or self._comparing.release != now.release:
            self._forget()
            self._comparing = Comparing(self._data, now)
        comparing = self._comparing
        comparing.read_on()
        found = comparing.look()
        assert found.upper is not None
        if self._act and found.upper < -comparing.limits.loss and self._roll_back(comparing, found):
            found.status = "rolled_back"
        elif self._act and comparing.bound.n >= comparing.limits.events:
            reason = f"no loss was found in {comparing.bound.n} feeds of release {comparing.release}"
            if release(self._log, reason, by="guard", expected=comparing.release) is not None:
                found.status = "released"
        if self._act:
            self._log.append(lambda txn: write_comparison(txn, _row(found)))
        return found

    def _begin(self) -> Look:
        newest = next(iter(newest_models(self._log)), None)
        rows = self._log.read_kinds(["config"])
        enough = read_config(rows[-1].payload).document.guard.drift_after if rows else 0
        if newest is None or newest.learned < max(enough, 1) or not self._act:
            return Look("waiting")
        try:
            release(self._log, "the guard began", by="guard", expected=0)
        except NothingPublished:
            return Look("waiting")
        return self.look()

    def _roll_back(self, comparing: Comparing, found: Look) -> bool:
        """False if somebody else decided meanwhile."""
        loss = comparing.limits.loss
        reason = (
            f"it earns less than champion {comparing.champion}: running - champion is at most {found.upper:.4g} a "
            f"slot after {found.feeds} feeds, and a loss of {loss:g} is allowed"
        )

        def write(txn: Txn) -> bool:
            now = serving(txn)
            if now.pinned is not None or now.release != comparing.release:
                return False
            rollback = Rollback(
                to=comparing.champion, position=now.champion_position, by="guard", reason=reason,
                release=comparing.release, feeds=found.feeds, upper=found.upper, alpha=found.alpha,
            )  # fmt: skip
            append_rollback(txn, rollback)
            return True

        return self._log.append(write)

    def _forget(self) -> None:
        if self._comparing is not None:
            self._comparing.close()
            self._comparing = None

    def close(self) -> None:
        """Close every file."""
        self._forget()
        self._log.close()


def _row(found: Look) -> Comparison:
    return Comparison(found.release, found.champion or "", found.feeds, found.estimate, found.upper, found.alpha)


# ---------------------------------------------------------------- the command


def add_parser(subparsers: Any) -> None:
    """The ``guard`` command."""
    parser = subparsers.add_parser(
        "guard",
        help="compare what serves with a frozen champion, and roll back if it is worse",
        description="Compare what serves with the champion of its release, feed by feed as windows end, and roll back "
        "to the champion once what serves surely earns less; see docs/feed.md. Runs until it is ended. The service "
        "runs it by itself with --guard yes.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="data directory of a service, running or not")
    parser.add_argument("--once", action="store_true", help="look once, and say what was found")
    parser.add_argument("--dry-run", action="store_true", help="only look: begin no release, roll nothing back")
    parser.add_argument(
        "--every", type=float, default=EVERY_S, metavar="S", help="seconds between looks (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print each look as a line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0 looked, 1 rolled back (with --once), 2 the log cannot be used (the reason is on stderr)."""
    try:
        guard = SlowGuard(arguments.data, act=not arguments.dry_run)
    except BanditError as error:
        print(f"guard: {error.message}", file=sys.stderr)
        return 2
    try:
        return _watch(guard, arguments)
    finally:
        guard.close()


def _watch(guard: SlowGuard, arguments: argparse.Namespace) -> int:
    said = ""
    while True:
        try:
            found = guard.look()
        except BanditError as error:
            if arguments.once:
                print(f"guard: {error.message}", file=sys.stderr)
                return 2
            text = f"guard: {error.message}"
        else:
            text = msgspec.json.encode(found).decode() if arguments.json else told(found)
            if arguments.once:
                print(text)
                return 1 if found.status == "rolled_back" else 0
        if text != said:
            print(text, flush=True)
            said = text
        time.sleep(arguments.every)


def told(found: Look) -> str:
    """A look in a line."""
    if found.status == "waiting":
        return "waiting for a model that has learned guard.drift_after slots, to be the first champion"
    if found.status == "pinned":
        return f"model {found.champion} is pinned since a rollback; nothing to compare until a release"
    line = f"release {found.release}, champion {found.champion}: {found.feeds} feeds"
    if found.estimate is not None and found.upper is not None and found.alpha is not None:
        line += (
            f", running - champion {found.estimate:+.4g} a slot, at most {found.upper:+.4g} (alpha {found.alpha:.3g})"
        )
    ends = {"rolled_back": "; ROLLED BACK to the champion", "released": "; the next release has begun"}
    return line + ends.get(found.status, "")
