"""The service in the simulated world: in this process with the world's own clock, or over HTTP."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np

from bandit import records
from bandit.config import Config
from bandit.records import Feedback, Item, ItemFeedback, ItemsRequest, RankRequest, User, UserRequest
from replay.demo.client import Client, ServiceFailed
from replay.demo.play import catch_up
from replay.simulate.kernels import I64
from replay.simulate.policies import Heard
from replay.simulate.stepped import Stepped
from replay.simulate.world import BEGINS, Feed, World

#: The trainer sees time pass once in so many requests, and publishes at most then: to publish takes as long as
#: several requests, which are some seconds apart, of different viewers.
PUBLISH_EVERY: Final = 10
#: Over HTTP the player waits until all it has told is learned, after so many requests.
MOST_AHEAD: Final = 20
ITEMS_A_CALL: Final = 1_000


class Words:
    """What a client of the service says about feeds of a world.

    :param event: begins every event id
    :param item: begins every item id
    """

    def __init__(self, world: World, *, event: str, item: str = "") -> None:
        self._world = world
        self._event = event
        self._ids = [f"{item}{each}" for each in world.catalogue.ids]
        self._put = 0

    def new_items(self, feed: Feed) -> list[Item]:
        """The items that came since this was asked last, with what is told of them."""
        first, self._put = self._put, max(self._put, self._world.n_items_at(feed.number))
        features = self._world.catalogue.features
        return [Item(self._ids[item], msgspec.Raw(records.encode(features(item)))) for item in range(first, self._put)]

    def event_id(self, feed: Feed) -> str:
        """The id of a request."""
        return f"{self._event}-{feed.number}"

    def viewer(self, feed: Feed) -> str:
        """The id of the viewer of a request."""
        return f"viewer-{feed.viewer}"

    def picked(self, feed: Feed) -> UserRequest | None:
        """What the viewer picked at sign-up, if they do and this is their first request."""
        told = feed.nth == 0 and self._world.is_told[feed.viewer]
        return UserRequest(self._world.interests(feed.viewer)) if told else None

    def request(self, feed: Feed, n_slots: int) -> RankRequest:
        """A request for a ranking."""
        return RankRequest(
            candidates=[self._ids[item] for item in feed.candidates.tolist()],
            event_id=self.event_id(feed),
            user=User(self.viewer(feed)),
            slots=n_slots,
        )

    def places(self, feed: Feed, ids: list[str]) -> I64:
        """Where these items stand among the candidates."""
        place_of = {self._ids[item]: place for place, item in enumerate(feed.candidates.tolist())}
        return np.array([place_of[each] for each in ids], np.int64)

    def feedback(self, heard: Heard) -> Feedback:
        """What is told of a feed: of everything seen, whatever came of it, and so at once for good."""
        event_id = self.event_id(heard.feed)
        items = [
            ItemFeedback(id=self._ids[item], signals=said, final=True)
            for item, said in zip(heard.items.tolist(), heard.said, strict=True)
        ]
        return Feedback(event_id=event_id, items=items, feedback_id=f"{event_id}-{heard.part}")


class InProcess:
    """Service and trainer over one data directory, stepped by hand: the same numbers for the same seed.

    :param directory: the data directory; must exist and be empty
    :param config: parts of the config that are to be others than the shipped ones
    :param vw: the learner's arguments; None for the shipped ones
    :param publish_every: requests between two published models
    :raises InvalidConfig: the config cannot be in force
    """

    name = "feed-bandit"

    def __init__(
        self,
        world: World,
        directory: Path,
        *,
        config: dict[str, Any] | None = None,
        vw: str | None = None,
        publish_every: int = PUBLISH_EVERY,
    ) -> None:
        self._publish_every = publish_every
        seed = world.scenario.seed
        self._stepped = Stepped(directory, draws=b"simulated %d" % seed, begins=BEGINS, changes=config, vw=vw)
        self.service = self._stepped.service
        self.world = world
        self.words = Words(world, event=f"s{seed}")
        self.fallbacks = 0
        self._learned: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stepped = self._stepped
        stepped.pace.reach(stepped.clock.now + 1.0)
        stepped.work()
        self._learned = self.service.model().learned_slots
        stepped.trainer.run(lambda: True)
        stepped.data.close()

    def wait(self, seconds: float) -> None:
        """Let time pass, and windows end."""
        stepped = self._stepped
        stepped.clock.reach(stepped.clock.now + seconds)
        stepped.pace.reach(stepped.clock.now)
        stepped.work()

    @property
    def learned(self) -> int:
        """Slots that the model now served has learned; after the end, all that there was to learn."""
        return self.service.model().learned_slots if self._learned is None else self._learned

    @property
    def config(self) -> Config:
        """The config in force."""
        return self.service.config().document

    def rank(self, feed: Feed, n_slots: int) -> I64:
        self._stepped.clock.reach(feed.at)
        if feed.number % self._publish_every == 0:
            self._stepped.pace.reach(feed.at)
        self._stepped.work()
        new = self.words.new_items(feed)
        if new:
            self.service.put_items(ItemsRequest(new))
        picked = self.words.picked(feed)
        if picked is not None:
            self.service.put_user(self.words.viewer(feed), picked)
        reply = self.service.rank(self.words.request(feed, n_slots))
        self.fallbacks += reply.fallback is not None
        return self.words.places(feed, [slot.id for slot in reply.ranking])

    def hear(self, heard: Heard, *, now: float) -> None:
        self._stepped.clock.reach(now)
        self.service.feedback([self.words.feedback(heard)])


class OverHttp:
    """A service that runs already. Its time is the real one: a simulated day passes for it in seconds.

    :param event: begins every event id; another one for every run
    """

    name = "feed-bandit"

    def __init__(self, world: World, client: Client, *, event: str) -> None:
        self._client = client
        self.words = Words(world, event=event, item="sim-")
        self._config: Config = msgspec.convert(client.call("GET", "/v1/config")[0], Config)
        self._told: set[str] = set()
        self._learned = client.n_learned()
        self.fallbacks = 0

    @property
    def config(self) -> Config:
        """The config that was in force when this was made."""
        return self._config

    def rank(self, feed: Feed, n_slots: int) -> I64:
        if feed.number % MOST_AHEAD == 0:
            catch_up(self._client, self._learned)
        new = self.words.new_items(feed)
        for start in range(0, len(new), ITEMS_A_CALL):
            self._client.call("PUT", "/v1/items", _plain(ItemsRequest(new[start : start + ITEMS_A_CALL])))
        picked = self.words.picked(feed)
        if picked is not None:
            self._client.call("PUT", f"/v1/users/{self.words.viewer(feed)}", _plain(picked))
        reply, _ = self._client.call("POST", "/v1/rank", _plain(self.words.request(feed, n_slots)))
        self.fallbacks += reply["fallback"] is not None
        if reply["unknown"]:
            raise ServiceFailed(f"{len(reply['unknown'])} items are unknown; does anybody else change the catalogue?")
        return self.words.places(feed, [slot["id"] for slot in reply["ranking"]])

    def hear(self, heard: Heard, *, now: float) -> None:
        # Real time has not passed as simulated time has: what comes too late for the world is not sent at all.
        if heard.late:
            return
        feedback = self.words.feedback(heard)
        assert isinstance(feedback.feedback_id, str)
        if feedback.feedback_id not in self._told:
            self._told.add(feedback.feedback_id)
            self._learned += len(feedback.items)
        self._client.call("POST", "/v1/feedback", _plain(feedback))


def _plain(struct: msgspec.Struct) -> Any:
    return msgspec.json.decode(msgspec.json.encode(struct))
