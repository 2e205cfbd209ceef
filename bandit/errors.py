"""One base, small leaves: what can go wrong, as facts that carry their data.

The web layer turns the base into the one JSON error shape
``{"error": {"code", "message", "detail"}}``; nothing else does.
"""

from __future__ import annotations

from typing import Any, ClassVar


class BanditError(Exception):
    """Base of every error that a caller can cause or must handle.

    :param message: what was given, what is allowed, what to do
    :param detail: the same as data, for programs
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retry_after_s: int | None = None

    def __init__(self, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class InvalidRequest(BanditError):
    """The request cannot be understood; nothing was stored."""

    code = "invalid_request"
    status = 400


class InvalidFeatures(InvalidRequest):
    """A feature that could not be learned from as it was sent."""

    code = "invalid_features"


class EmptySlate(InvalidRequest):
    """No candidate may be shown: a reply without a propensity teaches nothing."""

    code = "empty_slate"


class InvalidConfig(InvalidRequest):
    """The config document was refused whole; the old one stays in force."""

    code = "invalid_config"


class InvalidFormula(InvalidConfig):
    """The reward formula uses what a formula may not use."""

    code = "invalid_formula"


class UnsupportedArgument(BanditError):
    """A VW argument that the serving kernel does not reproduce exactly."""

    code = "unsupported_argument"
    status = 400


class InvalidSetting(BanditError):
    """The settings that the service was started with; every fault is listed."""

    code = "invalid_setting"


class NotFound(BanditError):
    """No such thing."""

    code = "not_found"
    status = 404


class UnknownDecision(NotFound):
    """No decision bears this event id."""

    code = "unknown_decision"


class UnknownItem(NotFound):
    """The catalogue holds no such item."""

    code = "unknown_item"


class UnknownUser(NotFound):
    """Nobody ever heard of this viewer."""

    code = "unknown_user"


class UnknownModel(NotFound):
    """No kept model bears this version."""

    code = "unknown_model"


class NotOffered(BanditError):
    """What another service did at this route and this one does not; the message says what to do instead."""

    code = "not_offered"
    status = 410


class NothingPublished(BanditError):
    """There is no model yet that could serve."""

    code = "nothing_published"
    status = 409


class IdConflict(BanditError):
    """An id that was used before, with another body."""

    code = "id_conflict"
    status = 409


class VersionMismatch(BanditError):
    """``If-Match`` does not name the config in force."""

    code = "version_mismatch"
    status = 412


class VersionRequired(BanditError):
    """A config can only be replaced by one who says which one."""

    code = "version_required"
    status = 428


class Unauthorized(BanditError):
    """No key that is accepted came with the request."""

    code = "unauthorized"
    status = 401


class Forbidden(BanditError):
    """The key does not allow this."""

    code = "forbidden"
    status = 403


class RateLimited(BanditError):
    """The key has asked more often than it may."""

    code = "rate_limited"
    status = 429
    retry_after_s = 1


class InvalidKey(BanditError):
    """A key that cannot be made as it was asked for."""

    code = "invalid_key"
    status = 400


class UnknownKey(NotFound):
    """No key has this id."""

    code = "unknown_key"


class NoKeys(BanditError):
    """The service was to listen where others can reach it, and nobody would have to show a key."""

    code = "no_keys"


class BodyTooLarge(BanditError):
    """More bytes than one request may carry."""

    code = "body_too_large"
    status = 413


class LogUnavailable(BanditError):
    """The log cannot be written, so nothing can be acknowledged."""

    code = "log_unavailable"
    status = 503
    retry_after_s = 1


class Overloaded(BanditError):
    """More is asked than can be answered in time; nothing was done."""

    code = "overloaded"
    status = 503
    retry_after_s = 1


class CorruptModel(BanditError):
    """A model file whose bytes are not what was published."""

    code = "corrupt_model"


class DataDirectoryInUse(BanditError):
    """Another service holds this data directory."""

    code = "data_directory_in_use"


class AddressInUse(BanditError):
    """Somebody else listens on this address."""

    code = "address_in_use"
