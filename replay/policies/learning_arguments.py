"""Which VW arguments a policy that learns along the log may have."""

from __future__ import annotations

import re
import shlex
from typing import Final

from replay.errors import BadPolicy

OPTIONS: Final = {
    "c": "no more than the smallest probability that the logging policy gives to anything, over the largest that the "
    "learner may",
    "seed": "of the draws, a whole number",
}
_OURS: Final = "it is set here"
_NOT_ONE_SLOT: Final = "it is no policy of one choice among actions with features; use --cb_explore_adf"
_REFUSED: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("-d", "--data", "--dsjson", "--json", "--explore_eval", "--multiplier", "--target_rate", "--block_size"), _OURS
    ),
    **dict.fromkeys(("-p", "--predictions", "-r", "--raw_predictions", "--quiet", "--driver_output_off"), _OURS),
    **dict.fromkeys(("--driver_output", "--log_output", "--log_level", "--limit_output", "--progress", "-P"), _OURS),
    "--random_seed": "write ,seed=N after the arguments",
    **dict.fromkeys(("-t", "--testonly"), "it would not learn; use greedy:MODEL or epsilon:MODEL"),
    **dict.fromkeys(
        ("--passes", "-c", "--cache", "--cache_file", "-k", "--kill_cache", "--bfgs", "--conjugate_gradient"),
        "online there is one pass",
    ),
    **dict.fromkeys(
        ("-f", "--final_regressor", "--readable_model", "--invert_hash", "--save_per_pass", "--extra_metrics"),
        "nothing is saved",
    ),
    **dict.fromkeys(("--daemon", "--port", "--stdin", "-a", "--audit", "--span_server"), "there is nobody to talk to"),
    **dict.fromkeys(("--ccb_explore_adf", "--slates", "--cb", "--cb_explore", "--cats", "--cats_pdf"), _NOT_ONE_SLOT),
    **dict.fromkeys(("--cbify", "--cbify_ldf", "--warm_cb", "--oaa", "--csoaa", "--wap"), _NOT_ONE_SLOT),
    "--cb_sample": "the draw is made here",
    "--sgd": "",
    "--regcbopt": "VW does not print it as a distribution",
}


def checked_arguments(spec: str, text: str) -> list[str]:
    """The arguments, one by one.

    :raises BadPolicy: they cannot be read, or one would make the learner another than it is online
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadPolicy(f"{spec}: the arguments cannot be read: {error}") from None
    for word in words:
        name = word.partition("=")[0]
        short = name[:2] if re.fullmatch(r"-[A-Za-z].*", name) else name
        reason = _REFUSED.get(name, "") or (_REFUSED.get(short, "") if short in ("-d", "-p", "-r", "-f", "-P") else "")
        if reason:
            raise BadPolicy(f"{spec}: {name} cannot be used for a policy that learns along the log: {reason}")
    given = {word.partition("=")[0] for word in words}
    if not given & {"--cb_explore_adf", "-i", "--initial_regressor"}:
        raise BadPolicy(
            f"{spec} names no explorer; give --cb_explore_adf with one of its explorers, such as --epsilon 0.1"
        )
    check_step_sizes(spec, words)
    return words


def check_step_sizes(spec: str, words: list[str]) -> None:
    """Steps that shrink with events read, learned from or not, would make the learner older than its updates.

    :raises BadPolicy: they would
    """
    given = {word.partition("=")[0] for word in words}
    adaptive = "--sgd" not in given and ("--adaptive" in given or not given & {"--normalized", "--invariant"})
    power = next(
        (
            word.partition("=")[2] or following
            for word, following in zip(words, [*words[1:], ""], strict=True)
            if word.partition("=")[0] == "--power_t"
        ),
        "0.5",
    )
    if not adaptive and float(power) != 0:
        raise BadPolicy(
            f"{spec}: without --adaptive VW's steps shrink with every event that it reads, also with those it does not "
            "learn from, so the learner is not what it would be online; leave out --sgd (--normalized, --invariant), "
            "or add --power_t 0"
        )
