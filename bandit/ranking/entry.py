"""A drawn decision on its way into the log."""

from __future__ import annotations

from bandit import records
from bandit.ranking.candidates import Resolved, number, unnumbered
from bandit.records import Decision
from bandit.store.arms import note_arm
from bandit.store.items import intern_versions
from bandit.store.log import Txn


class Entry:
    """One decision, made ready to be written.

    :param resolved: its candidates; those that the log has never seen get their numbers with it
    """

    def __init__(self, event_id: str, decision: Decision, resolved: Resolved, body_hash: bytes | None) -> None:
        self._event_id = event_id
        self._decision = decision
        self._resolved = resolved
        self._body_hash = body_hash
        self._new = unnumbered(resolved)
        self._numbers: list[int] = []
        # What can be done before the log's lock is taken is done here.
        self._payload = self._candidates = b""
        if not self._new:
            self._make()

    def _make(self) -> None:
        _renumber(self._decision, self._resolved)
        self._payload = records.encode(self._decision)
        self._candidates = self._resolved.versions.tobytes()

    def write(self, txn: Txn) -> None:
        """Append it; nobody may have used its event id."""
        if self._new:
            self._numbers = intern_versions(txn, [text for _, text in self._new])
            self._resolved.versions[[place for place, _ in self._new]] = self._numbers
            self._make()
        position = txn.append(
            "decision",
            self._payload,
            event_id=self._event_id,
            body_hash=self._body_hash,
            candidates=self._candidates,
            user=self._decision.user,
        )
        note_arm(txn, position, self._event_id, self._decision)

    def written(self) -> None:
        """It is durable: the numbers that its candidates got may be used by others."""
        if self._new:
            number(self._resolved, [place for place, _ in self._new], self._numbers)


def _renumber(decision: Decision, resolved: Resolved) -> None:
    """Put version numbers into slots that were drawn before their items had one."""
    if all(slot.version for slot in decision.slots):
        return
    version_of = dict(zip(resolved.ids, resolved.versions.tolist(), strict=True))
    for slot in decision.slots:
        slot.version = version_of[slot.id]
