"""The reward formula: what it takes, what it refuses, and that it never surprises."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.config import Config, check_config
from bandit.errors import InvalidFormula
from bandit.reward.formula import MAX_FORMULA_LENGTH, Formula, combine

numbers = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("text", "signals", "expected"),
    [
        ("watch_s / 30 + 2 * like - 5 * skip", {"watch_s": 15.0, "like": 1.0}, 2.5),
        ("like", {}, 0.0),
        ("-like", {"like": 2.0}, -2.0),
        ("+like", {"like": 2.0}, 2.0),
        ("1", {}, 1.0),
        ("min(watch_s, 60) / 60", {"watch_s": 90.0}, 1.0),
        ("max(like, share, 3)", {"share": 4.0}, 4.0),
        ("abs(like - 3)", {"like": 1.0}, 2.0),
        ("sqrt(watch_s)", {"watch_s": 9.0}, 3.0),
        ("log1p(watch_s)", {"watch_s": math.e - 1}, 1.0),
        ("2 + 3 * 4", {}, 14.0),
        ("(2 + 3) * 4", {}, 20.0),
    ],
)
def test_a_formula_is_worked_out(text: str, signals: dict[str, float], expected: float) -> None:
    assert Formula(text)(signals) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["watch_s / like", "sqrt(like - 1)", "log1p(like - 1)", "1e9 / (like / 1e9) / like"])
def test_where_a_formula_has_no_value_there_is_no_reward(text: str) -> None:
    assert Formula(text)({"like": 0.0, "watch_s": 1.0}) is None


def test_what_is_not_finite_is_no_reward() -> None:
    huge = " * ".join(["1e9"] * 40)
    assert Formula(huge)({}) is None
    assert Formula(f"{huge} - {huge}")({}) is None


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "like +", "(like", "a b", "like = 1", "import os", "like; like", "\x00", "\ud800",
        "like ** 2", "like % 2", "like // 2", "like @ 2", "like | 1", "like << 9", "~like", "not like",
        "like and 1", "like if like else 0", "like < 1", "like == 1",
        "like.real", "like[0]", "[like]", "(like, 1)", "{like}", "{'a': like}", "lambda: 1", "like()", "(like)(1)",
        "[x for x in (1,)]", "f'{like}'", "'like'", "b'like'", "True", "None", "...", "1j", "(x := 1)", "*like",
        "1e10", "1e999", "-1e999", str(10**12),
        "min(like)", "max()", "min(1, *like)", "min(1, 2, key=abs)", "abs(1, 2)", "sqrt()", "pow(2, 3)",
        "eval('1')", "__import__('os')", "abs.__class__", "min(1, 2, 3, 4, 5, 6, 7, 8, 9)",
        "await like", "yield",
    ],
)  # fmt: skip
def test_anything_but_arithmetic_over_signals_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormula):
        Formula(text)


@pytest.mark.parametrize("text", ["max", "max + 1", "min(max, 1)", "like + abs", "min(abs(like), sqrt)", "-log1p"])
def test_a_function_is_no_signal_even_if_a_signal_bears_its_name(text: str) -> None:
    """It would have no value for any feedback, and no error before the first one is learned from."""
    with pytest.raises(InvalidFormula, match="as a number"):
        Formula(text)


def test_refusals_say_what_was_found_and_what_is_allowed() -> None:
    with pytest.raises(InvalidFormula, match=r"uses Attribute; allowed are .*min, max"):
        Formula("like.real")
    with pytest.raises(InvalidFormula, match="takes 2 to 8 arguments, not 1"):
        Formula("min(like)")


@pytest.mark.parametrize(
    "text",
    ["(" * 300 + "1" + ")" * 300, "-" * 900 + "1", "1" + "+1" * 499, "abs(" * 150 + "1" + ")" * 150],
    ids=["parentheses", "signs", "sums", "calls"],
)
def test_nesting_as_deep_as_the_length_allows_is_worked_out_or_refused(text: str) -> None:
    try:
        formula = Formula(text)
    except InvalidFormula:
        return
    assert formula({}) is not None


def test_a_formula_has_a_greatest_length() -> None:
    with pytest.raises(InvalidFormula, match="at most"):
        Formula("1" + " " * MAX_FORMULA_LENGTH)


def test_the_names_are_the_signals_it_needs() -> None:
    assert Formula("watch_s / 30 + min(like, 1) + like").names == {"watch_s", "like"}


@given(st.text(alphabet="ab+-*/().,0123456789e_ minxsqrt\n", max_size=60))
def test_any_text_is_a_formula_or_refused(text: str) -> None:
    try:
        formula = Formula(text)
    except InvalidFormula:
        return
    reward = formula(dict.fromkeys(formula.names, 1.0))
    assert reward is None or math.isfinite(reward)


@given(numbers, numbers, numbers)
def test_the_default_formula_has_a_value_everywhere(watch_s: float, like: float, report: float) -> None:
    formula = check_config(Config())
    assert formula({"watch_s": watch_s, "like": like, "report": report}) is not None


@given(st.lists(numbers, min_size=1, max_size=6))
def test_repeats_combine_by_sum_max_or_last(values: list[float]) -> None:
    combined: dict[str, float | None] = dict.fromkeys(("sum", "max", "last"))
    for value in values:
        for how, so_far in combined.items():
            combined[how] = combine(how, so_far, value)
    assert combined["max"] == max(values)
    assert combined["last"] == values[-1]
    assert combined["sum"] == pytest.approx(math.fsum(values), abs=1e-6)
