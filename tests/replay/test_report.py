"""The table on the terminal: fits, says everything, and says it in words."""

from __future__ import annotations

import doctest

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.web.pages import scale, svg
from replay import diagnostics
from replay.report import charts, words
from replay.report.page import render
from replay.report.terminal import table
from replay.results import Difference, Evaluation, Interval, LogSummary, Verdict
from tests.replay import example


@pytest.mark.parametrize("module", [words, charts, svg, diagnostics], ids=lambda module: module.__name__)
def test_examples_in_docstrings_hold(module):
    tried = doctest.testmod(module)
    assert (tried.attempted > 0, tried.failed) == (True, 0)


def difference(value, low, high, verdict: Verdict = "undecided", *, relative=None, needed=None) -> Difference:
    return Difference(
        value=value,
        se=None,
        interval=Interval(low, high, "normal", 0.05),
        verdict=verdict,
        relative=relative,
        events_needed=needed,
    )


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (difference(0.0039, 0.0025, 0.0053, "better", relative=0.12), "better by 12 % (8 to 16 %)"),
        (difference(-0.0076, -0.0093, -0.0059, "worse", relative=-0.24), "worse by 24 % (19 to 29 %)"),
        (difference(0.5, 0.4, 0.6, "better", relative=None), "better by 0.50 (0.40 to 0.60)"),
        (difference(0.001, -0.01, 0.01, needed=51_234), "undecided: about 41,000 more events needed"),
        (difference(0.001, -0.01, 0.01), "undecided"),
        (difference(0.001, -0.01, 0.01, needed=10**9), "undecided: over 1,000 times as many events needed"),
        (difference(0.0, 0.0, 0.0), "the same as production"),
    ],
)
def test_verdicts_are_sentences(given, said):
    assert words.verdict(given, 10_000) == said


def test_headline_names_the_best_and_counts_the_others():
    first, second = words.headline(example.rich())
    assert first == "squarecb-50 would have earned 12 % more than production."
    assert second.startswith("Better by 12 % (8 to 17 %), with 95 % confidence")
    assert "4 of 21 policies are better" in words.headline(example.many())[1]


def test_headline_of_nothing_better():
    rich = example.rich()
    by_name = {policy.name: policy for policy in rich.policies}
    close = example.evaluation([by_name["softmax"], by_name["uniform"]])
    assert words.headline(close)[0] == "Too close to call: softmax or production."
    assert "360,000 more events would decide" in words.headline(close)[1]
    worse = example.evaluation([by_name["uniform"]])
    assert words.headline(worse)[0] == "uniform is worse than production."
    none = example.evaluation([by_name["last-year"]])
    assert words.headline(none)[0] == "This log cannot tell what last-year would have earned."
    assert "worth about 2.1" in words.headline(none)[1]
    assert words.headline(example.evaluation([]))[0] == "Production's own value."


def test_production_itself_is_the_known_answer():
    logged = example.rich().policies[0]
    logged.name, logged.difference = "logged", difference(0.0, 0.0, 0.0)
    assert words.headline(example.evaluation([logged]))[0] == "logged is production itself."
    assert "the same as production" in table(example.evaluation([logged]))


def test_rounding_is_no_difference():
    logged = example.rich().policies[0]
    logged.name, logged.difference = "logged", difference(1e-17, -2e-17, 4e-17, relative=3e-16, needed=10**12)
    for part in logged.over_time:
        part.difference, part.difference_interval = 1e-18, Interval(-1e-17, 1e-17, "normal", 0.05)
    made = example.evaluation([logged])
    assert "the same as production" in table(made)
    html = render(made)
    assert "0.000000" not in html
    assert "000,000" not in html
    assert "over time</b>" not in html


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(0, 7))
def test_numbers_never_read_as_code(value, digits):
    for text in (words.number(value, digits), words.signed(value, digits), words.compact(value)):
        assert "nan" not in text
        assert "inf" not in text
        assert "e" not in text.replace("unbounded", "")


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 8))
def test_ticks_lie_on_the_axis_and_are_few(low, span, most):
    high = low + span
    if not high > low + 1e-6 * max(abs(low), abs(high)):
        return
    ticks = scale.Linear(low, high).ticks(most)
    assert 1 <= len(ticks) <= most + 1
    assert all(0 <= tick.at <= 1 for tick in ticks)
    assert len({tick.text for tick in ticks}) == len(ticks)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8),
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)), max_size=8),
)
@hypothesis.example([5e-324], [])
@hypothesis.example([0.0, 1e-310], [(0.0, 1e-310)])
def test_a_scale_holds_every_value(values, spans):
    made = scale.around(values, [(low, low + span) for low, span in spans])
    assert made.low < made.high
    assert all(made.holds(value) for value in values)


def test_one_endless_interval_does_not_squeeze_the_others():
    made = scale.around([1.0, 1.1], [(0.9, 1.1), (1.0, 1.2), (-50.0, 90.0)])
    assert made.high - made.low < 10


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize("made", [example.rich(), example.many(), example.evaluation([])], ids=["rich", "many", "none"])
def test_table_fits_a_hundred_columns(made):
    assert max(map(len, table(made).splitlines())) <= 100


def test_production_comes_first_then_policies_as_asked():
    lines = table(example.rich()).splitlines()
    rule = next(i for i, line in enumerate(lines) if set(line) == {"-"})
    names = [line.split()[0] for line in lines[rule + 1 :] if line and line[0] != " "][:5]
    assert names == ["production", "squarecb-50", "softmax", "uniform", "last-year"]


def test_table_says_every_answer():
    text = table(example.rich())
    for said in (
        "48,210 events, 482,100 slots, 9,134 viewers, 2 to 22 November 2026",
        "watch*1 + like*2",
        "211 window still open",
        "0.0356        0.0339 to 0.0374      11,204   better by 12 % (8 to 17 %)",
        "undecided: about 360,000",
        "no answer            0.00 to 0.41         2.1   refused",
        "1 event carries 69 % of the weight of 48,210.",
        "about 2,200,000 more events are needed",
        "dros(lambda=10)",
        "holds however often you look",
        "Pareto k 0.81",
    ):
        assert said in text, said


def test_checks_that_passed_are_not_told():
    assert "The weights average" not in table(example.rich())


def test_long_names_and_terminal_codes_do_not_break_the_table():
    made = example.rich()
    made.policies[0].name = "a-policy-with-a-very-long-name-indeed, twice as long as its column"
    made.policies[1].name = "evil\x1b[31m\nname"
    text = table(made)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert all(part in text for part in ("a-policy-with-a-very-", "long-name-indeed"))


def test_a_log_without_times_viewers_or_intervals():
    made: Evaluation = example.rich()
    made.log = LogSummary("x.npz", "arrays", 1, 1, None, None, None, "as logged")
    made.production.interval = None
    for policy in made.policies:
        policy.weights = None
        for estimate in policy.estimates:
            estimate.interval = None
    assert "x.npz (arrays): 1 event" in table(made)
