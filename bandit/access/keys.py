"""API keys: what they look like, what is kept of them, what they allow. Pure; time and randomness are handed in.

A key is ``fb_<id>_<secret>``: an id that may be told to anybody, and 256 random bits. Kept is SHA-256 of the whole,
unsalted and fast on purpose: salts and slow hashes protect what people choose, which can be guessed from a list; of
2^256 secrets none can, and a slow hash would be paid at every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, Literal, NamedTuple, get_args

from bandit.errors import InvalidKey

#: What a key may be for. ``admin`` includes the others.
Scope = Literal["rank", "feedback", "read", "admin"]
SCOPES: Final[frozenset[str]] = frozenset(get_args(Scope))

ID_BYTES: Final = 6
SECRET_BYTES: Final = 32
_APP = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Key(NamedTuple):
    """What is kept of a key.

    :ivar app: whose decisions it makes and reaches; empty: those of the app without a name, as when keys are off
    :ivar digest: `digest_of` the key
    :ivar expires_at, revoked_at: UTC seconds; None: never
    :ivar rate: requests a second that each worker grants it; None: what the service was started with
    """

    id: str
    app: str
    scopes: frozenset[str]
    digest: bytes
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    rate: float | None = None

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        """Whether it is accepted at a time, and why not."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"

    def allows(self, scope: Scope) -> bool:
        """Whether it may do what needs this scope."""
        return scope in self.scopes or "admin" in self.scopes


#: Stands for a key that nobody has, so that an unknown one takes as long to refuse as a revoked one.
NOBODYS: Final = Key("", "", frozenset(), bytes(32), 0.0, revoked_at=0.0)


def new_key(random: bytes) -> tuple[str, str]:
    """(id, key) of this randomness.

    :param random: `ID_BYTES` + `SECRET_BYTES` bytes that nobody else has

    >>> new_key(bytes(range(38)))[0]
    '000102030405'
    """
    assert len(random) == ID_BYTES + SECRET_BYTES
    key_id = random[:ID_BYTES].hex()
    return key_id, f"fb_{key_id}_{random[ID_BYTES:].hex()}"


def digest_of(key: str) -> bytes:
    """SHA-256 of a key, whole; what is not text that a header can hold has one too."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def id_in(key: str) -> str:
    """The id that a key names; empty if it is none.

    >>> id_in("fb_000102030405_06"), id_in("secret")
    ('000102030405', '')
    """
    parts = key.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == "fb" else ""


def fits(key: str, known: Key) -> bool:
    """Whether this is the key of which that is kept; takes the same time whatever is wrong."""
    return hmac.compare_digest(digest_of(key), known.digest)


def checked_app(app: str) -> str:
    """The name of an app, if it may be one.

    :raises InvalidKey: it may not
    """
    if app and _APP.fullmatch(app) is None:
        raise InvalidKey(
            f"app is {app!r}; a name has 1 to 64 of the characters a-z, 0-9, '.', '_' and '-', and begins with a "
            "letter or digit",
            app=app,
        )
    return app


def checked_scopes(text: str) -> frozenset[str]:
    """Scopes from a list with commas.

    :raises InvalidKey: it names none, or one that there is not

    >>> sorted(checked_scopes("rank, feedback"))
    ['feedback', 'rank']
    """
    scopes = frozenset(filter(None, (each.strip() for each in text.split(","))))
    if not scopes or scopes - SCOPES:
        raise InvalidKey(
            f"scopes is {text!r}; name one or more of {', '.join(get_args(Scope))}, with commas between them",
            scopes=text,
        )
    return scopes
