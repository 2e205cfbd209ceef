"""What replay refuses to begin with; each says what was given, what is allowed and what to do."""

from __future__ import annotations

from bandit.errors import BanditError


class BadLog(BanditError):
    """The log cannot be read, or lacks what evaluation rests on."""

    code = "bad_log"


class BadPolicy(BanditError):
    """The target policy cannot be understood, or not run on this log."""

    code = "bad_policy"


class Unsupported(BadPolicy):
    """The target would show what the log could never have shown: a refusal, not a mistake of the one who asks."""

    code = "unsupported"


class WorkerLost(BanditError):
    """Workers died again and again of the same part of a log, or there are none."""

    code = "worker_lost"


class BadQuestion(BanditError):
    """An estimator, interval, level, slice or reward formula that does not exist or does not fit this log."""

    code = "bad_question"
