"""Names that stand for viewers: keyed hashes, which nobody can work out without the data directory's secret."""

from __future__ import annotations

import hashlib


def pseudonym_of(user: str, secret: bytes) -> str:
    """What stands for a viewer's id in everything that is stored, if the service was so started; 32 hex digits.

    >>> pseudonym_of("ada", b"a secret") == pseudonym_of("ada", b"another"), len(pseudonym_of("ada", b"a secret"))
    (False, 32)
    """
    return hashlib.blake2b(user.encode(), digest_size=16, key=secret, person=b"pseudonym").hexdigest()


def who_of(user: str, secret: bytes) -> str:
    """What stands for an erased viewer's id in the log, and nowhere else; 32 hex digits.

    Another hash than `pseudonym_of`: the record of an erasure leads to nothing that was stored.
    """
    return hashlib.blake2b(user.encode(), digest_size=16, key=secret, person=b"erased").hexdigest()


def names_of(user: str, secret: bytes) -> list[str]:
    """Every name under which records of a viewer may stand, whatever the service was started with: plain, then hashed.

    A pseudonym that is given as it stands in the log is a plain name too.
    """
    return [user, pseudonym_of(user, secret)]
