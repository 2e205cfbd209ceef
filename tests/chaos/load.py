"""Clients under whose load processes are killed; what they send comes from the seed."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.chaos.ledger import Ledger, Told
from tests.service import Reply, send

TIMEOUT_S = 5.0
PAUSE_S = 0.05
N_ITEMS = 120
#: Windows are short, so that many end while processes die.
WINDOWS_S = (1.0, 2.0, 3.0)


class Client(threading.Thread):
    """One client with a connection of its own; repeats what was not answered as a careful caller would."""

    def __init__(self, name: str, port: int, ledger: Ledger, rng: random.Random, stopping: threading.Event) -> None:
        super().__init__(name=name)
        self._port = port
        self.ledger = ledger
        self.rng = rng
        self._stopping = stopping
        self._connection: http.client.HTTPConnection | None = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self.act()
                time.sleep(self.rng.uniform(0.0, 0.02))
        except BaseException as error:
            self.failure = error
            self.ledger.broken(f"client {self.name} ended with {error!r}")
        finally:
            self._disconnect()

    def act(self) -> None:
        """One thing that such a client does."""
        raise NotImplementedError

    def ask(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Reply | None:
        """The reply; None if none came, and nobody can tell whether the request was done."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
            reply = send(self._connection, method, path, body, headers=headers)
            # A reply that broke off may still look like one: it is one only if it can be read.
            if reply.content:
                _ = reply.body
        except (OSError, http.client.HTTPException, ValueError):
            self._disconnect()
            self.ledger.count("unanswered")
            return None
        if reply.status == 503:
            self.ledger.count("refused for now (503)")
            return None
        self.ledger.count("answered")
        return reply

    def insist(self, ask: Callable[[], Reply | None], *, tries: int = 2_000) -> Reply:
        """Ask until there is a reply.

        :raises AssertionError: none came for minutes
        """
        for _ in range(tries):
            reply = ask()
            if reply is not None:
                return reply
            time.sleep(PAUSE_S)
        raise AssertionError("the service did not come back")

    def expect(self, reply: Reply, *allowed: int) -> bool:
        """Whether the reply is one of those; any other is a broken promise."""
        if reply.status in allowed:
            return True
        self.ledger.broken(f"{self.name} was answered {reply.status}: {reply.content.decode(errors='replace')[:300]}")
        return False

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Viewer(Client):
    """Asks for rankings and says what it did with them, promptly, late, early, twice."""

    def __init__(self, name: str, port: int, ledger: Ledger, rng: random.Random, stopping: threading.Event) -> None:
        super().__init__(name, port, ledger, rng, stopping)
        self._numbers = itertools.count(1)
        self._recent: deque[dict[str, Any]] = deque(maxlen=12)
        self._asked: deque[tuple[dict[str, Any], dict[str, Any]]] = deque(maxlen=30)
        self._to_activate: deque[dict[str, Any]] = deque(maxlen=5)
        self._acknowledged: deque[Told] = deque(maxlen=50)

    def act(self) -> None:
        what = self.rng.random()
        if what < 0.4 or not self._recent:
            self._rank()
        elif what < 0.85:
            self._report(self.rng.choice(list(self._recent)))
        elif what < 0.9 and self._to_activate:
            self._activate(self._to_activate.popleft())
        elif what < 0.95 and self._asked:
            # Much later, perhaps at another worker or after a restart.
            body, reply = self.rng.choice(list(self._asked))
            self._ask_again(body, reply)
        elif self._acknowledged:
            self._repeat(self.rng.choice(list(self._acknowledged)))

    # ------------------------------------------------------------ rankings

    def _rank(self) -> None:
        rng = self.rng
        # One that is never put, so never withdrawn.
        ids = [f"v{n}" for n in [*rng.sample(range(N_ITEMS), rng.randint(0, 40)), N_ITEMS + rng.randint(0, 9)]]
        rng.shuffle(ids)
        candidates: list[Any] = list(ids)
        if rng.random() < 0.2:
            candidates[0] = {"id": ids[0], "features": {"fresh": rng.randint(0, 5)}}
        number = next(self._numbers)
        body = {
            "user": {"id": f"u{rng.randint(0, 20)}"},
            "context": {"hour": rng.randint(0, 23)},
            "candidates": candidates,
            "slots": rng.randint(1, 6),
        }
        if rng.random() < 0.2:
            body["defer_activation"] = True
        if rng.random() < 0.5:
            body["event_id"] = f"{self.name}-{number}"
            if rng.random() < 0.1:
                self._report({"event_id": body["event_id"], "ranking": [{"id": one} for one in ids[:2]]})
            reply = self.insist(lambda: self.ask("POST", "/v1/rank", body))
        else:
            # Nobody knows its id: a request without a reply is simply lost.
            once = self.ask("POST", "/v1/rank", body)
            if once is None:
                return
            reply = once
        if reply.status == 400 and reply.body["error"]["code"] == "empty_slate":
            # All of the few that were sent are withdrawn, or this viewer does not want them.
            self.ledger.count("nothing that may be shown")
            return
        if not self.expect(reply, 200):
            return
        ranking = reply.body
        self.ledger.ranked(ranking)
        self.ledger.count("rankings")
        self._recent.append(ranking)
        if "event_id" in body:
            self._asked.append((body, ranking))
        if "defer_activation" in body:
            self._to_activate.append(ranking)

    def _ask_again(self, body: dict[str, Any], before: dict[str, Any]) -> None:
        reply = self.insist(lambda: self.ask("POST", "/v1/rank", body))
        if self.expect(reply, 200):
            self.ledger.count("rankings asked again")
            self.ledger.ranked(reply.body)
            if reply.body["event_id"] != before["event_id"]:
                self.ledger.broken(f"event {before['event_id']} was answered as {reply.body['event_id']}")

    # ------------------------------------------------------------ feedback

    def _report(self, ranking: dict[str, Any]) -> None:
        rng = self.rng
        shown = [placed["id"] for placed in ranking["ranking"]]
        number = next(self._numbers)
        items = []
        for item_id in rng.sample(shown, rng.randint(1, len(shown))):
            # No two feedbacks are alike, so that each can be found again in the log.
            item: dict[str, Any] = {"id": item_id, "signals": {"watch_s": round(rng.uniform(0, 60), 6)}}
            if rng.random() < 0.3:
                item["signals"]["comment"] = 1.0
            if rng.random() < 0.4:
                item["final"] = True
            if rng.random() < 0.02:
                item["signals"]["not_interested"] = 1.0
                item["about"] = rng.sample(["creator", "sound", "tag:news"], rng.randint(0, 2))
            items.append(item)
        body: dict[str, Any] = {"event_id": ranking["event_id"], "items": items}
        items[0]["signals"]["skip"] = float(f"0.{number:06d}{int(self.name[1:]):03d}")
        if rng.random() < 0.7:
            body["feedback_id"] = f"{self.name}-f{number}"
            told = self.ledger.sent(body)
            reply = self.insist(lambda: self._tell(told))
            if not self.expect(reply, 202):
                return
            self._acknowledged.append(told)
        else:
            # Without an id a retry would count twice: it is sent once.
            self._tell(self.ledger.sent(body))

    def _tell(self, told: Told) -> Reply | None:
        told.tries += 1
        reply = self.ask("POST", "/v1/feedback", told.body)
        if reply is not None and self.expect(reply, 202):
            told.statuses.append(reply.body["status"])
            self.ledger.count(f"feedback {reply.body['status']}")
        return reply

    def _repeat(self, told: Told) -> None:
        reply = self.insist(lambda: self._tell(told))
        if self.expect(reply, 202) and reply.body["status"] != "duplicate":
            self.ledger.broken(f"repeated feedback {told.body['feedback_id']} was taken again: {reply.body}")

    def _activate(self, ranking: dict[str, Any]) -> None:
        shown = [placed["id"] for placed in ranking["ranking"]]
        told = self.rng.choice([None, shown, shown[:1], shown[::-1]])
        path = f"/v1/events/{ranking['event_id']}/activate"
        reply = self.insist(lambda: self.ask("POST", path, {} if told is None else {"shown": told}))
        if self.expect(reply, 202):
            self.ledger.activations[ranking["event_id"]] = told
            self.ledger.count("activations")


class Operator(Client):
    """Keeps the catalogue and the config, alone: so what is acknowledged last is what must stand there."""

    def act(self) -> None:
        what = self.rng.random()
        if what < 0.6:
            self._put_items(self.rng.randint(1, 8))
        elif what < 0.8:
            self._withdraw()
        elif what < 0.9:
            self._configure()
        elif what < 0.95:
            self._sign_up()
        time.sleep(self.rng.uniform(0.0, 0.1))

    def _put_items(self, n: int) -> None:
        rng = self.rng
        items = {
            f"v{number}": {
                "genre": f"g{rng.randint(0, 5)}",
                "length_s": rng.randint(5, 60),
                "creator": f"c{number % 17}",
                "sound": f"s{number % 11}",
                "tags": rng.sample(["cats", "news", "music", "diy"], rng.randint(0, 3)),
                "group": f"v{number - number % 2}",
            }
            for number in rng.sample(range(N_ITEMS), n)
        }
        body = {"items": [{"id": item_id, "features": features} for item_id, features in items.items()]}
        reply = self.insist(lambda: self.ask("PUT", "/v1/items", body))
        if self.expect(reply, 200):
            self.ledger.items.update(items)
            self.ledger.count("catalogue changes")

    def _withdraw(self) -> None:
        if not self.ledger.items:
            return
        item_id = self.rng.choice(sorted(self.ledger.items))
        reply = self.insist(lambda: self.ask("DELETE", f"/v1/items/{item_id}"))
        if self.expect(reply, 204):
            self.ledger.items[item_id] = None
            self.ledger.count("withdrawals")

    def _sign_up(self) -> None:
        body = {"interests": self.rng.sample(["cats", "news", "music", "diy"], self.rng.randint(0, 3))}
        user = f"u{self.rng.randint(0, 20)}"
        reply = self.insist(lambda: self.ask("PUT", f"/v1/users/{user}", body))
        if self.expect(reply, 200):
            self.ledger.count("sign-ups")
            if reply.body["interests"] != body["interests"]:
                self.ledger.broken(f"{user} picked {body['interests']} and is told {reply.body['interests']}")

    def _configure(self) -> None:
        rng = self.rng
        found = self.insist(lambda: self.ask("GET", "/v1/config"))
        document = found.body
        document["reward_window_s"] = rng.choice(WINDOWS_S)
        document["evidence"] = rng.choice(["viewport", "viewport", "served"])
        document["floor"] = rng.choice([0.05, 0.2])
        document["explorer"] = rng.choice([{"kind": "squarecb"}, {"kind": "epsilon_greedy"}, {"kind": "softmax"}])
        document["exploration"] = rng.choice([{"share": None}, {"share": 0.1}])
        document["learning_weight"] = rng.choice([{"kind": "constant"}, {"kind": "ips"}])
        reply = self.ask("PUT", "/v1/config", document, headers={"If-Match": found.headers["ETag"]})
        # Without a reply it may be in force or not: the next look tells.
        if reply is not None and self.expect(reply, 200):
            version = int(reply.headers["ETag"].strip('"'))
            self.ledger.configs[version] = reply.body
            self.ledger.count("config changes")
