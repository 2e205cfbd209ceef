"""The shipped service and its trainer in this process, on one stream of requests, with the stream's own time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from bandit.records import Candidate, Features, Feedback, Item, ItemFeedback, ItemsRequest, RankReply, RankRequest, User
from replay.simulate.stepped import Stepped

#: A log in memory is written in a tenth of the time, and nothing here is to survive.
IN_MEMORY: Final = Path("/dev/shm")
ITEMS_A_CALL: Final = 1_000


class Stream:
    """Requests one after the other; with ``learn`` all that was told so far is in the served model.

    Everything follows from the seed: the event ids and the secret of the data directory, hence every draw.

    :param changes: parts of the config that are to be others than the shipped ones
    """

    def __init__(self, directory: Path, *, seed: int, begins: float, changes: Mapping[str, Any] | None = None) -> None:
        self._seed = seed
        self._stepped = Stepped(directory, draws=b"quality %d" % seed, begins=begins, changes=changes)
        self.service = self._stepped.service
        self._asked = 0
        self.learn()

    def put(self, items: Mapping[str, Features]) -> None:
        """Fill the catalogue."""
        listed = [Item(item_id, msgspec.Raw(msgspec.json.encode(features))) for item_id, features in items.items()]
        for start in range(0, len(listed), ITEMS_A_CALL):
            self.service.put_items(ItemsRequest(listed[start : start + ITEMS_A_CALL]))

    def rank(
        self, candidates: Sequence[str], *, now: float, slots: int, viewer: str | None = None,
        viewer_features: Features | None = None, context: Features | None = None,
    ) -> RankReply:  # fmt: skip
        """The reply to one request.

        :raises AssertionError: it did not come from the model
        """
        self._stepped.clock.reach(now)
        listed: list[str | Candidate] = list(candidates)
        request = RankRequest(candidates=listed, event_id=f"q{self._seed}-{self._asked}", slots=slots)
        self._asked += 1
        if viewer is not None:
            request.user = User(viewer) if viewer_features is None else User(viewer, viewer_features)
        if context is not None:
            request.context = context
        reply = self.service.rank(request)
        assert reply.fallback is None, reply.fallback
        return reply

    def tell(self, reply: RankReply, rewards: Sequence[float]) -> None:
        """What each slot earned; all were seen, and that is all there is to say of them."""
        items = [
            ItemFeedback(id=slot.id, reward=float(reward), seen=True, final=True)
            for slot, reward in zip(reply.ranking, rewards, strict=True)
        ]
        self.service.feedback([Feedback(event_id=reply.event_id, items=items, feedback_id=reply.event_id)])

    def learn(self) -> None:
        """Serve a model that holds everything told so far."""
        # To the trainer's eye a publish is due as soon as its clock has moved; the log's time has not.
        pace = self._stepped.pace
        pace.reach(max(pace.now + 0.02, self._stepped.clock.now))
        self._stepped.work()

    def close(self) -> None:
        """Give back what is held."""
        self._stepped.close()


@contextmanager
def stream(*, seed: int, begins: float, changes: Mapping[str, Any] | None = None) -> Iterator[Stream]:
    """A stream over a data directory of its own, gone afterwards."""
    where = IN_MEMORY if IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="feed-bandit-quality-", dir=where) as folder:
        opened = Stream(Path(folder), seed=seed, begins=begins, changes=changes)
        try:
            yield opened
        finally:
            opened.close()
