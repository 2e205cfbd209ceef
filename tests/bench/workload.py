"""What all benchmarks measure with: items, requests, and a data directory that has learned something.

The shape is the one that the targets name: 10 features of viewer and context, 7 of an item besides its id,
three crosses, 5,000 items, 1,000 candidates, 10 slots. Everything follows from a seed.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from bandit import records
from bandit.config import Settings
from bandit.learning.trainer import Trainer
from bandit.records import Feedback, Item, ItemFeedback, ItemsRequest, RankRequest
from bandit.service import Service
from bandit.store.data import DataDirectory

VW = "-b 18 -q UI -q CI -q hs"
N_ITEMS = 5_000
N_CANDIDATES = 1_000
N_REQUESTS = 200
N_SLOTS = 10


def item_id(number: int) -> str:
    return f"video-{number:08d}"


def item_features(number: int) -> dict[str, Any]:
    """Seven features; with the id VW sees eight."""
    rng = random.Random(number)
    return {
        "creator": f"c{rng.randrange(500)}",
        "category": f"cat{rng.randrange(24)}",
        "language": rng.choice(["en", "de", "no", "es", "pt"]),
        "length_s": rng.randrange(5, 180),
        "sound": {"genre": f"g{rng.randrange(16)}", "artist": f"a{rng.randrange(300)}", "bpm": rng.randrange(60, 180)},
    }


def viewer(rng: random.Random) -> dict[str, Any]:
    """The user and context members of a request: ten features."""
    return {
        "user": {
            "id": f"user-{rng.randrange(20_000):06d}",
            "features": {
                "age": rng.choice(["18", "25", "35", "45"]),
                "country": rng.choice(["NO", "DE", "US", "BR"]),
                "history": {f"likes{k}": round(rng.random(), 3) for k in range(4)},
            },
        },
        "context": {
            "hour": str(rng.randrange(24)),
            "device": rng.choice(["phone", "tablet", "web"]),
            "network": rng.choice(["wifi", "mobile"]),
        },
    }


class Workload(NamedTuple):
    """Items and requests.

    :ivar picked: numbers of each request's candidates
    """

    items: list[tuple[str, dict[str, Any]]]
    bodies: list[bytes]
    picked: list[list[int]]

    def requests(self) -> list[RankRequest]:
        """The bodies, decoded."""
        return [records.decode(body, RankRequest) for body in self.bodies]


def make_workload(
    *, n_items: int = N_ITEMS, n_requests: int = N_REQUESTS, n_candidates: int = N_CANDIDATES, seed: int = 7
) -> Workload:
    """Requests for random viewers over random candidates, by id alone."""
    rng = random.Random(seed)
    items = [(item_id(number), item_features(number)) for number in range(n_items)]
    picked = [rng.sample(range(n_items), n_candidates) for _ in range(n_requests)]
    bodies = [
        msgspec.json.encode({**viewer(rng), "candidates": [item_id(n) for n in numbers], "slots": N_SLOTS})
        for numbers in picked
    ]
    return Workload(items, bodies, picked)


def cold_bodies(n: int, *, n_candidates: int = N_CANDIDATES, first: int = 10_000_000) -> list[bytes]:
    """Requests whose candidates nobody has seen, with their features inline."""
    rng = random.Random(first)
    bodies = []
    for _ in range(n):
        numbers = range(first, first + n_candidates)
        first += n_candidates
        bodies.append(
            msgspec.json.encode(
                {
                    **viewer(rng),
                    "candidates": [{"id": item_id(number), "features": item_features(number)} for number in numbers],
                    "slots": N_SLOTS,
                }
            )
        )
    return bodies


@contextmanager
def opened(path: Path, **settings: Any) -> Iterator[Service]:
    """A service on a data directory, in this process."""
    path.mkdir(parents=True, exist_ok=True)
    data = DataDirectory(Settings(data=path, **{"vw": VW, "publish_ms": 10, **settings}))
    try:
        yield Service(data)
    finally:
        data.close()


def make_data(path: Path, workload: Workload, *, n_events: int = 300, **settings: Any) -> None:
    """A data directory with the catalogue, and a model that learned ten slots from each of ``n_events``."""
    with opened(path, **settings) as service:
        put_items(service, workload)
        trainer = Trainer(service.data)
        drain(trainer)
        service.ranker.refresh()
        teach(service, workload, n_events)
        drain(trainer)
        publish(trainer)


def put_items(service: Service, workload: Workload) -> None:
    items = [Item(id_, Raw(msgspec.json.encode(features))) for id_, features in workload.items]
    service.put_items(ItemsRequest(items=items))


def teach(service: Service, workload: Workload, n_events: int) -> None:
    """Rankings and final feedback on all their slots; the trainer has yet to read them."""
    rng = random.Random(11)
    for number, request in enumerate(workload.requests() * (n_events // len(workload.bodies) + 1)):
        if number == n_events:
            return
        reply = service.rank(request)
        seen = [
            ItemFeedback(placed.id, signals={"watch_s": round(60 * rng.random(), 1)}, final=True)
            for placed in reply.ranking
        ]
        service.feedback([Feedback(reply.event_id, seen)])


def drain(trainer: Trainer) -> None:
    while trainer.step():
        pass


def publish(trainer: Trainer) -> None:
    """Publish what was learned, now."""
    time.sleep(0.02)
    trainer.step()


# ---------------------------------------------------------------- measuring


@contextmanager
def as_in_a_worker() -> Iterator[None]:
    """The garbage collector as `bandit.worker` sets it."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def each_us(call: Callable[[Any], object], arguments: Sequence[Any]) -> list[float]:
    """Microseconds of each call."""
    clock = time.perf_counter_ns
    taken = []
    for argument in arguments:
        started = clock()
        call(argument)
        taken.append((clock() - started) / 1000)
    return taken


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies; nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def interleaved(
    a: Callable[[int], Sequence[float]], b: Callable[[int], Sequence[float]], *, repetitions: int
) -> list[tuple[float, float]]:
    """Medians of ``a`` and ``b`` by repetition, measured in turn: ABAB..., so that a busy moment hits both.

    :param a: given the repetition's number, times of single calls
    """
    pairs = []
    for repetition in range(repetitions):
        # Every second time the other one first: whoever comes second finds colder caches.
        if repetition % 2:
            second = statistics.median(b(repetition))
            first = statistics.median(a(repetition))
        else:
            first = statistics.median(a(repetition))
            second = statistics.median(b(repetition))
        pairs.append((first, second))
    return pairs
