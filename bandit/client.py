"""A client for feed servers: rankings within a deadline or the caller's own order, feedback that is not lost silently.

    with Client("http://127.0.0.1:8080", key=KEY) as client:
        ranking = client.rank(["v1", "v2", "v3"], user="ada", slots=2)
        client.feedback(ranking.event_id, [{"id": ranking.ids[0], "signals": {"watch_s": 12}, "final": True}])

It imports nothing of the service: ``pip install feed-bandit[client]``, or this file and httpx.
"""

from __future__ import annotations

import atexit
import json
import logging
import random
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

log = logging.getLogger("feed_bandit.client")

#: A candidate is its id, or has features too: ``{"id": "v1", "features": {"creator": "kari"}}``.
Candidate = str | Mapping[str, Any]

BATCH: Final = 100
LINGER_S: Final = 0.2
#: A background request may take so long; nobody waits for it.
BACKGROUND_S: Final = 10.0
#: Pauses between background attempts, doubled from the first to the second.
PAUSES_S: Final = (0.1, 10.0)
#: Between two attempts at a ranking, if the deadline leaves as much.
RETRY_S: Final = 0.01
#: The service tells no more of a list that was shown.
MOST_SHOWN: Final = 100
_KEY_REFUSED: Final = (401, 403)


class RequestRefused(Exception):
    """The service says that the request is wrong; asking again will not help.

    :ivar status: HTTP status
    :ivar code: the service's word for it, such as ``invalid_request``
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Ranking:
    """What to show, first to last.

    :ivar served: by the service; False: this is the caller's own order, and ``reason`` says why
    :ivar propensities: probability of each placement; empty unless served
    :ivar reply: all that the service answered; empty unless served
    """

    event_id: str
    ids: list[str]
    served: bool
    reason: str | None = None
    propensities: list[float] = field(default_factory=list)
    reply: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """What happened so far.

    :ivar served, unserved: rankings by the service, and in the caller's own order
    :ivar retried: attempts after the first, of rankings and in the background
    :ivar sent: feedback and activations that the service has acknowledged, repeated ones too
    :ivar refused: those that it said are wrong
    :ivar dropped: those that found the queue full, or were left when the client was closed
    :ivar pending: those that wait, or are on their way
    """

    served: int = 0
    unserved: int = 0
    retried: int = 0
    sent: int = 0
    refused: int = 0
    dropped: int = 0
    pending: int = 0


@dataclass(frozen=True)
class _Job:
    """Something to be sent in the background: feedback, or an activation."""

    event_id: str
    body: dict[str, Any]
    activation: bool = False


class _TryAgain(Exception):
    """The service is away or busy.

    :ivar after_s: how long it asks to be left alone
    """

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class Client:
    """Talks to one service; safe to share between threads. Make it after forking, and close it at the end.

    :param deadline_s: how long a ranking may take, retries and all; name resolution is beyond its reach
    :param queue: feedback and activations that may wait in memory; more are dropped, and counted
    :param transport: of httpx, for tests
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        deadline_s: float = 0.2,
        queue: int = 10_000,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=30.0)
        self._http = httpx.Client(base_url=url, headers=headers, limits=limits, transport=transport)
        self._deadline_s = deadline_s
        self._most = queue
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._counts = Counts()
        self._flushing = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        # Events of which the service was not told that another list was shown, and cannot be any more.
        self._untold: dict[str, None] = {}
        _open.add(self)

    # ------------------------------------------------------------ rankings

    def rank(
        self,
        candidates: Sequence[Candidate],
        *,
        user: str | Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        slots: int | None = None,
        event_id: str | None = None,
        deadline_s: float | None = None,
        **more: Any,
    ) -> Ranking:
        """The service's ranking; or, if that does not come in time, the candidates in the order in which they came.

        Retries bear the same event id, so the service ranks and logs once. Of an order that is the caller's own the
        service is told in the background, so that it takes nothing for its own that it did not choose.

        :param user: their id, or ``{"id": ..., "features": ...}``
        :param event_id: made here unless given
        :param more: whatever else ``POST /v1/rank`` takes, such as ``exclude`` or ``explain``
        :raises RequestRefused: the request is wrong
        """
        event_id = event_id or new_id()
        body: dict[str, Any] = {"event_id": event_id, "candidates": list(candidates), **more}
        if user is not None:
            body["user"] = {"id": user} if isinstance(user, str) else dict(user)
        if context is not None:
            body["context"] = dict(context)
        if slots is not None:
            body["slots"] = slots
        until = time.monotonic() + (self._deadline_s if deadline_s is None else deadline_s)
        try:
            reply = self._within(until, "/v1/rank", _encoded(body))
        except _TryAgain as error:
            return self._own_order(event_id, body, str(error))
        self._count(served=1)
        placed = reply["ranking"]
        return Ranking(
            event_id, [one["id"] for one in placed], True, None, [one["propensity"] for one in placed], reply
        )

    def _within(self, until: float, path: str, content: bytes) -> dict[str, Any]:
        """:raises _TryAgain: no answer in time"""
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise _TryAgain("no answer in time")
            try:
                return self._post(path, content, left, until)
            except _TryAgain as error:
                pause = max(error.after_s, RETRY_S)
                if time.monotonic() + pause >= until:
                    raise
                self._count(retried=1)
                time.sleep(pause)

    def _own_order(self, event_id: str, body: Mapping[str, Any], reason: str) -> Ranking:
        excluded = set(body.get("exclude", ()))
        ids = [one if isinstance(one, str) else str(one["id"]) for one in body["candidates"]]
        ids = [one for one in ids if one not in excluded][: body.get("slots")]
        self._count(unserved=1)
        # The service may have ranked all the same, and be too late to tell: it has to know that another list was
        # shown, before it hears what became of that.
        if ids and not self.activate(event_id, ids[:MOST_SHOWN]):
            with self._changed:
                self._untold[event_id] = None
                while len(self._untold) > self._most:
                    del self._untold[next(iter(self._untold))]
        return Ranking(event_id, ids, False, reason)

    # ------------------------------------------------------------ feedback

    def feedback(
        self, event_id: str, items: Sequence[Mapping[str, Any]], *, feedback_id: str | None = None
    ) -> bool:
        """Have it sent in the background; False if the queue is full, and it was dropped.

        :param items: as ``POST /v1/feedback`` takes them
        :param feedback_id: made here unless given; whatever is sent twice is taken once
        """
        body = {"event_id": event_id, "feedback_id": feedback_id or new_id(), "items": [dict(one) for one in items]}
        return self._put(_Job(event_id, body))

    def activate(self, event_id: str, shown: Sequence[str] | None = None) -> bool:
        """Tell in the background that a feed was shown; False if the queue is full, and it was dropped.

        :param shown: the ids, if they are others than were ranked
        """
        return self._put(_Job(event_id, {} if shown is None else {"shown": list(shown)}, activation=True))

    def _put(self, job: _Job) -> bool:
        # Said at once to who can mend it: in the background nobody could.
        _encoded(job.body)
        with self._changed:
            if self._closing:
                raise RuntimeError("this client is closed")
            if self._counts.pending >= self._most or job.event_id in self._untold:
                self._counts = replace(self._counts, dropped=self._counts.dropped + 1)
                return False
            self._counts = replace(self._counts, pending=self._counts.pending + 1)
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="feed-bandit-client", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was put so far is sent; False if it was not in time."""
        until = time.monotonic() + timeout_s
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._counts.pending == 0, max(0.0, until - time.monotonic()))
            finally:
                self._flushing -= 1

    def close(self, timeout_s: float = 10.0) -> int:
        """Send what waits, and end; how many could not be sent and are dropped. Harmless when it is closed."""
        if not self._closing:
            self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        with self._changed:
            left = self._counts.pending
            self._jobs.clear()
            self._counts = replace(self._counts, pending=0, dropped=self._counts.dropped + left)
        _open.discard(self)
        if left:
            log.warning("%s feedbacks and activations could not be sent, and are dropped", left)
        self._http.close()
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counts(self) -> Counts:
        """What happened so far."""
        return self._counts

    def _count(self, **more: int) -> None:
        with self._changed:
            now = self._counts
            self._counts = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})

    # ------------------------------------------------------------ in the background

    def _run(self) -> None:
        while True:
            jobs = self._next()
            if not jobs:
                return
            if not self._send(jobs):
                return

    def _next(self) -> list[_Job]:
        """What to send next, in the order in which it was put; nothing when the client is closed.

        Activations go alone. Feedback waits a little for company.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._jobs) or self._closing)
            if self._jobs and not self._jobs[0].activation:
                self._changed.wait_for(
                    lambda: len(self._jobs) >= BATCH or bool(self._flushing) or self._closing, LINGER_S
                )
            jobs: list[_Job] = []
            while self._jobs and len(jobs) < BATCH:
                if jobs and (jobs[0].activation or self._jobs[0].activation):
                    break
                jobs.append(self._jobs.popleft())
            return [] if self._closing else jobs

    def _send(self, jobs: list[_Job]) -> bool:
        """Send until the service has taken or refused them; False if the client was closed first."""
        pause = PAUSES_S[0]
        while True:
            try:
                self._send_once(jobs)
            except _TryAgain as error:
                self._count(retried=1)
                # Not all clients that were sent away together come back together.
                wait = max(error.after_s, pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, PAUSES_S[1])
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, wait):
                        return False
                continue
            except RequestRefused as error:
                if len(jobs) > 1:
                    # All or nothing is stored: the one that is wrong must not take the others with it.
                    return all(self._send([job]) for job in jobs)
                log.warning("the service refused what was said of event %r: %s", jobs[0].event_id, error)
                self._done(jobs, refused=1)
                return True
            self._done(jobs, sent=len(jobs))
            return True

    def _done(self, jobs: list[_Job], **counted: int) -> None:
        self._count(pending=-len(jobs), **counted)
        with self._changed:
            self._changed.notify_all()

    def _send_once(self, jobs: list[_Job]) -> None:
        until = time.monotonic() + BACKGROUND_S
        if jobs[0].activation:
            path = f"/v1/events/{quote(jobs[0].event_id, safe='')}/activate"
            body = jobs[0].body
        else:
            path, body = "/v1/feedback", {"events": [job.body for job in jobs]}
        try:
            self._post(path, _encoded(body), BACKGROUND_S, until)
        except RequestRefused as error:
            if error.status in _KEY_REFUSED:
                # A key can be put right while this waits, and what waits is not lost.
                raise _TryAgain(str(error), PAUSES_S[1]) from None
            raise

    # ------------------------------------------------------------ one request

    def _post(self, path: str, content: bytes, timeout_s: float, until: float) -> dict[str, Any]:
        """:raises RequestRefused: the request is wrong
        :raises _TryAgain: the service is away or busy, or has not answered by ``until``
        """
        received = bytearray()
        try:
            with self._http.stream("POST", path, content=content, timeout=timeout_s) as response:
                for chunk in response.iter_bytes():
                    received += chunk
                    if time.monotonic() > until:
                        raise _TryAgain("no answer in time")
        except httpx.TimeoutException:
            raise _TryAgain("no answer in time") from None
        except (httpx.TransportError, httpx.StreamError) as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from None
        status = response.status_code
        if status == 429 or status >= 500:
            raise _TryAgain(f"refused with {status}", _retry_after(response))
        try:
            body = json.loads(received)
            assert isinstance(body, dict)
        except (ValueError, AssertionError):
            raise _TryAgain(f"status {status} without JSON: is this the service?") from None
        if not 200 <= status < 300:
            told = body.get("error")
            told = told if isinstance(told, dict) else {}
            raise RequestRefused(status, str(told.get("code", "")), str(told.get("message", "")))
        return body


def new_id() -> str:
    """An id that nobody can guess; those of one time are close in an index."""
    return f"{int(time.time() * 1000):012x}{secrets.token_hex(10)}"


def _encoded(body: Mapping[str, Any]) -> bytes:
    """:raises ValueError: NaN, or what JSON has no word for"""
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(max(0.0, float(response.headers.get("Retry-After", ""))), 60.0)
    except ValueError:
        return 0.0


_open: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """What waits when the process ends is sent, or its loss is said."""
    for client in list(_open):
        client.close(2.0)
