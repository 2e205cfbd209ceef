"""Who serves: asked, rolled back, released. The same for the API, the command line and the slow guard."""

from __future__ import annotations

from collections.abc import Sequence

from bandit.errors import NothingPublished
from bandit.records import ComparisonReply, HoldReply, Release, Rollback, RollbackRequest, ServingReply
from bandit.store.log import EventLog, Txn
from bandit.store.models import ModelFiles, PublishedModel, newest_models
from bandit.store.serving import (
    append_release,
    append_rollback,
    comparison,
    find_kept,
    kept_models,
    last_hold,
    n_holds,
    serving,
)


def with_files(models: Sequence[PublishedModel], files: ModelFiles) -> list[PublishedModel]:
    """Those whose files are there, each version once."""
    found = {one.digest: one for one in reversed(models) if (files.folder / f"{one.digest}.vw").is_file()}
    return list(reversed(found.values()))


def serving_reply(log: EventLog, files: ModelFiles, keep_models: int) -> ServingReply:
    """Which model serves by the log, and why.

    :raises LogUnavailable: the log cannot be read
    """
    now = serving(log)
    newest = next(iter(newest_models(log)), None)
    held = last_hold(log)
    hold = None
    if held is not None:
        hold = HoldReply(held.digest, held.position, held.held_at, held.failed, held.reason, held.lessons, held.arm)
    found = comparison(log)
    return ServingReply(
        serves="newest" if now.pinned is None else "pinned",
        pinned=now.pinned,
        newest=None if newest is None else newest.digest,
        by=now.by,
        reason=now.reason,
        at=now.at,
        release=now.release,
        champion=now.champion,
        holds=0 if held is None else n_holds(log),
        holding=held is not None and (newest is None or held.hold_pos > newest.published_pos),
        hold=hold,
        kept=[one.digest for one in with_files(kept_models(log, keep_models), files)],
        compared=None if found is None else ComparisonReply(*found),
    )


def roll_back(log: EventLog, files: ModelFiles, keep_models: int, request: RollbackRequest) -> Rollback:
    """Serve an earlier model from here on, until a release.

    :raises UnknownModel: no such version is kept
    :raises CorruptModel: its file is not whole; nothing changed
    :raises LogUnavailable: nothing changed
    """

    def write(txn: Txn) -> Rollback:
        # Under the log's lock, so that the trainer does not delete the file meanwhile.
        model = find_kept(with_files(kept_models(txn, keep_models), files), request.to)
        files.read(model.digest)
        rollback = Rollback(to=model.digest, position=model.position, by="operator", reason=request.reason)
        append_rollback(txn, rollback)
        return rollback

    return log.append(write)


def release(log: EventLog, reason: str, by: str = "operator", expected: int | None = None) -> Release | None:
    """Serve the newest model from here on; what served before is the champion that it is compared with.

    :param expected: number of the release that this one is to follow, not pinned; None follows any
    :returns: None if another one came first, or a rollback
    :raises NothingPublished: there is no model
    :raises LogUnavailable: nothing changed
    """

    def write(txn: Txn) -> Release | None:
        now = serving(txn)
        if expected is not None and (now.release != expected or now.pinned is not None):
            return None
        newest = next(iter(newest_models(txn)), None)
        champion = next((one for one in kept_models(txn, 1) if one.digest == now.pinned), newest)
        if champion is None:
            raise NothingPublished("no model was published yet; start the service, and ask again")
        made = Release(
            number=now.release + 1, champion=champion.digest, position=champion.position, by=by, reason=reason
        )
        append_release(txn, made)
        return made

    return log.append(write)
