"""Who asks, and whether they may: API keys, their scopes and how often they ask; looked at before a body is read."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from bandit.access.keys import NOBODYS, SCOPES, Key, fits, id_in
from bandit.access.limits import TokenBucket
from bandit.config import is_loopback
from bandit.errors import Forbidden, RateLimited, Unauthorized
from bandit.store.data import DataDirectory
from bandit.store.keys import KeyRing
from bandit.web.routing import Caller, Incoming, Route
from bandit.web.sessions import holds, key_id_in, session_given, token_of

#: Whoever asks where no keys are needed: sees and may do everything, for the app without a name.
EVERYBODY: Final = Caller("", "", SCOPES)
#: Whoever asks a route that is open to all, where keys are needed elsewhere.
ANYBODY: Final = Caller("", "", frozenset())

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# One text for all of them: whether a key was ever good is nobody's business.
_REFUSED = "the key that came with this request is not accepted: unknown, revoked or expired"
_MISSING = (
    "this needs an API key; send it as `Authorization: Bearer KEY`, `X-API-Key` or `Ocp-Apim-Subscription-Key` "
    "(`python server.py keys create` makes one)"
)


class Gate:
    """Lets requests in, for one worker.

    :param clock: UTC seconds, for keys that expire
    :param monotonic: seconds, for rates
    """

    def __init__(
        self,
        data: DataDirectory,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = data.keys
        self._secret = data.secret
        self._clock = clock
        self._monotonic = monotonic
        self._rate = data.settings.rate_limit
        self._hosts = {data.settings.host}
        self._buckets: dict[str, TokenBucket] = {}
        self.admit = self._by_key if data.settings.needs_keys else self._from_here

    def _from_here(self, environ: Mapping[str, Any], route: Route) -> Caller:
        """Where no keys are needed: whoever asks this machine by its own name, and is no page of somebody else's.

        Otherwise any page that a browser on this machine shows could read and write everything: it sends a form
        here, or has a name of its own lead here.

        :raises Forbidden: another name was asked, or another page asks
        """
        host, origin = environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN")
        if host is not None and host not in self._hosts:
            self._check_host(host)
        if origin is not None and origin.partition("//")[2] != host:
            raise Forbidden(
                f"the request comes from a page of {origin[:100]!r}, and without keys only pages of this service are "
                "answered; to serve others start with --keys on",
                origin=origin[:100],
            )
        return EVERYBODY

    def _check_host(self, given: str) -> None:
        name = given.rpartition(":")[0] if not given.endswith("]") and ":" in given else given
        name = name.strip("[]").lower()
        if not is_loopback(name):
            raise Forbidden(
                f"the request is for host {given[:100]!r}, and without keys only this machine is answered, by the name "
                "of localhost; to serve others start with --keys on",
                host=given[:100],
            )
        if len(self._hosts) < 100:
            self._hosts.add(given)

    def _by_key(self, environ: Mapping[str, Any], route: Route) -> Caller:
        """:raises Unauthorized: no key, or one that is not accepted
        :raises Forbidden: the key is not for this
        :raises RateLimited: it asked too often
        :raises LogUnavailable: the keys cannot be read
        """
        if route.scope is None:
            return ANYBODY
        given, token = key_given(environ), ""
        if given is not None:
            key = accepted(self._keys, given, self._clock())
        else:
            session = session_given(environ)
            key = self._of_session(session)
            token = "" if key is None else token_of(session, secret=self._secret)
        if key is None:
            raise Unauthorized(_MISSING if given is None else _REFUSED)
        self._check(key, route)
        return Caller(key.id, key.app, key.scopes, token)

    def _of_session(self, session: str) -> Key | None:
        """The key with which somebody signed in, if the session and the key still hold."""
        now = self._clock()
        key = self._keys.find(key_id_in(session)) if session else None
        if key is None or key.state(now) != "active":
            return None
        return key if holds(session, key.digest, secret=self._secret, now=now) else None

    @staticmethod
    def check_page(incoming: Incoming) -> None:
        """Whether what changes something comes from a page of ours, if it came by a session.

        :raises Forbidden: it may come from anybody's
        """
        expected = incoming.caller.token
        if not expected or incoming.environ["REQUEST_METHOD"] in SAFE:
            return
        given = incoming.header("X-CSRF-Token") or incoming.form().get("csrf", "")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode()):
            raise Forbidden(
                "a change by somebody who is signed in must come from a page of this service: load it again, or send "
                "the key instead of the session"
            )

    def _check(self, key: Key, route: Route) -> None:
        """Whether an accepted key may ask a route now.

        :raises Forbidden: it is not for this
        :raises RateLimited: it asked too often
        """
        assert route.scope is not None
        if not key.allows(route.scope):
            raise Forbidden(
                f"this needs a key with the scope {route.scope!r}, and this one has {', '.join(sorted(key.scopes))}",
                needed=route.scope,
                scopes=sorted(key.scopes),
            )
        rate = self._rate if key.rate is None else key.rate
        if rate:
            self._count(key.id, rate)

    def _count(self, key_id: str, rate: float) -> None:
        bucket = self._buckets.get(key_id)
        if bucket is None or bucket.rate != rate:
            # Two threads may make one each: a request goes uncounted, once.
            bucket = self._buckets[key_id] = TokenBucket(rate, self._monotonic())
        wait_s = bucket.take(self._monotonic())
        if wait_s:
            error = RateLimited(
                f"this key may ask {rate:g} times a second; ask again after Retry-After, or have its limit raised",
                rate_limit=rate,
            )
            error.retry_after_s = math.ceil(wait_s)
            raise error


def accepted(keys: KeyRing, given: str, now: float) -> Key | None:
    """The key that this is, if it is one that holds.

    :raises LogUnavailable: the keys cannot be read
    """
    known = keys.find(id_in(given)) or NOBODYS
    # Both are worked out whatever the other says: a key that is unknown takes as long as one that is revoked.
    same, active = fits(given, known), known.state(now) == "active"
    return known if same and active else None


def key_given(environ: Mapping[str, Any]) -> str | None:
    """The key that a request brings; None without one."""
    bearer: str | None = environ.get("HTTP_AUTHORIZATION")
    if bearer is not None and bearer[:7].lower() == "bearer ":
        return bearer[7:].strip()
    found: str | None = environ.get("HTTP_X_API_KEY") or environ.get("HTTP_OCP_APIM_SUBSCRIPTION_KEY")
    return found
