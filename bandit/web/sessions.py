"""Sessions of people at pages: a signed cookie that names a key, and tokens that only our own pages know. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

COOKIE: Final = "feed_bandit_session"
SESSION_S: Final = 12 * 3600


def issue(key_id: str, digest: bytes, *, secret: bytes, now: float) -> str:
    """What the cookie holds: the key's id, until when it holds, and a signature. Not the key, nor its hash.

    :param digest: of the key, so that a session ends with it even if its id is given again
    :param secret: of the data directory
    """
    told = f"{key_id}.{int(now) + SESSION_S}"
    return f"{told}.{_signature(told, digest, secret)}"


def key_id_in(session: str) -> str:
    """The id of the key that a session names, whether or not it may; empty if none."""
    return session.partition(".")[0]


def holds(session: str, digest: bytes, *, secret: bytes, now: float) -> bool:
    """Whether a session was issued for the key with this digest, and has not ended."""
    told, _, signature = session.rpartition(".")
    same = hmac.compare_digest(signature.encode(), _signature(told, digest, secret).encode())
    until = told.rpartition(".")[2]
    return same and now < int(until)


def token_of(session: str, *, secret: bytes) -> str:
    """What forms and scripts of our own pages send with what changes something; others' pages cannot know it.

    >>> token_of("a.1.b", secret=b"s") == token_of("a.1.c", secret=b"s")
    False
    """
    return hashlib.blake2b(session.encode(), digest_size=16, key=secret, person=b"csrf").hexdigest()


def session_given(environ: Mapping[str, Any]) -> str:
    """The session that a request brings; empty without one."""
    for part in environ.get("HTTP_COOKIE", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return str(value)
    return ""


def cookie(session: str, environ: Mapping[str, Any]) -> str:
    """The ``Set-Cookie`` that keeps a session; an empty one forgets it."""
    secure = "https" in (environ.get("wsgi.url_scheme"), environ.get("HTTP_X_FORWARDED_PROTO"))
    age = SESSION_S if session else 0
    return f"{COOKIE}={session}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}"


def _signature(told: str, digest: bytes, secret: bytes) -> str:
    return hashlib.blake2b(told.encode() + digest, digest_size=16, key=secret, person=b"session").hexdigest()
