"""Which VW arguments are understood, and how they are spelled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.errors import UnsupportedArgument
from bandit.features.model_args import ALLOWED, ModelArgs


def test_nothing_means_vws_defaults():
    args = ModelArgs.parse("")
    assert args == ModelArgs(bits=18, interactions=(), ignore_linear="", noconstant=False, learning=())
    assert args.vw_command() == "--cb_adf --cb_type mtr --hash all --json --quiet --no_stdin --bit_precision 18"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("-b 20 -q UI -q CI", "--bit_precision 20 --quadratic CI --quadratic UI"),
        ("-b20 -qUI --quadratic=CI", "--bit_precision 20 --quadratic CI --quadratic UI"),
        ("--noconstant --cubic UCI", "--bit_precision 18 --cubic UCI --noconstant"),
        ("--interactions UI --interactions CUI", "--bit_precision 18 --quadratic UI --cubic CUI"),
        ("--ignore_linear UC --ignore_linear U", "--bit_precision 18 --ignore_linear CU"),
        ("-l 0.5 --power_t 0", "--bit_precision 18 --learning_rate 0.5 --power_t 0.0"),
        ("--l1 1e-6 --l2=1e-5", "--bit_precision 18 --l1 1e-06 --l2 1e-05"),
    ],
)
def test_one_canonical_spelling(text: str, canonical: str):
    assert ModelArgs.parse(text).text == canonical
    assert ModelArgs.parse(canonical) == ModelArgs.parse(text)


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        # Sorted; of several orders of the same letters the first; what stands twice is put in order.
        ("-q UI -q IU", ("IU",)),
        ("--cubic UIC --interactions ICU", ("ICU",)),
        ("--cubic UIU -q II", ("II", "IUU")),
        ("--cubic U::", ("::U",)),
        ("--cubic UCI -q UI -q UI", ("UI", "UCI")),
    ],
)
def test_interactions_are_settled_as_vw_settles_them(text: str, settled: tuple[str, ...]):
    assert ModelArgs.parse(text).interactions == settled


@pytest.mark.parametrize(
    ("text", "letters", "terms"),
    [
        ("-q UI", "CIU", ("UI",)),
        ("-q ::", "IU", ("II", "IU", "UU")),
        ("-q U: -q UI", "CIU", ("UC", "UI", "UU")),
        ("-q U: -q IU", "IU", ("IU", "UU")),
        ("--cubic :::", "IU", ("III", "IIU", "IUU", "UUU")),
        ("--cubic :::", "CIU", ("CCC", "CCI", "CCU", "CII", "CUU", "III", "IIU", "IUU", "UIC", "UUU")),
        ("--cubic :U:", "CI", ("CCU", "CIU", "IIU")),
    ],
)
def test_wildcards_are_filled_in_as_vw_does(text: str, letters: str, terms: tuple[str, ...]):
    filled = ModelArgs.parse(text).terms(letters)
    assert set(filled) == set(terms)
    assert len(filled) == len(terms)


REFUSED = [
    *("--bfgs", "--ftrl", "--coin", "--sgd", "--adaptive", "--normalized", "--invariant", "--permutations"),
    *("--leave_duplicate_interactions", "--random_weights", "--initial_weight 0.1", "--initial_t 1"),
    *("--decay_learning_rate 0.9", "--nn 3", "--rank 3", "--lrq UI3", "--ngram 2", "--skips 1"),
    *("--constant 1", "--hash strings", "--hash_seed 3", "--cb_type ips", "--cb_explore_adf", "--dsjson"),
    *("--json", "-t", "-i model.vw", "-f /tmp/x", "--data x", "--cache", "--passes 2", "--save_resume"),
    *("--quiet", "-d x", "--interactions UICS", "-q U", "-q UIC", "--cubic UI", "-q 'é:'", "-q '||'"),
    *("-q U_", "--ignore U", "--keep U", "--ignore_linear :", "--loss_function logistic", "--link glf1"),
    *("--min_prediction 0", "-b 3", "-b 40", "-b x", "-b ٣", "-b -5", "-b", "-l nan", "-l -1", "-l x"),
    *("--l1 2", "--power_t inf", "model.vw", "-", "--", "UI", "-q", "--noconstant=1", "'", "-x 3"),
    "--experimental_full_name_interactions a",
]


@pytest.mark.parametrize("text", REFUSED)
def test_everything_else_is_refused_by_name(text: str):
    with pytest.raises(UnsupportedArgument) as refused:
        ModelArgs.parse("-b 18 " + text)
    word = text.split()[0].partition("=")[0]
    assert word.strip("-'")[:3] in refused.value.message or "closing quotation" in refused.value.message


def test_the_message_says_what_is_allowed():
    with pytest.raises(UnsupportedArgument) as refused:
        ModelArgs.parse("--bfgs")
    assert refused.value.message.startswith("--bfgs is not supported")
    assert refused.value.detail == {"argument": "--bfgs", "allowed": ALLOWED}


def test_too_many_interactions_are_refused():
    many = " ".join(f"-q {a}{b}" for a in "abcdefghijkl" for b in "mnopqr")
    with pytest.raises(UnsupportedArgument, match="72 interactions"):
        ModelArgs.parse(many)


letters = st.sampled_from("UCISab:")
accepted = st.lists(
    st.text(letters, min_size=2, max_size=3).map("--interactions {}".format)
    | st.sampled_from(["--noconstant", "--ignore_linear Ua", "-l 0.25", "--sparse_l2 0.001", "-b 12"]),
    max_size=6,
).map(" ".join)


@given(accepted)
def test_the_canonical_spelling_is_a_fixed_point(text: str):
    args = ModelArgs.parse(text)
    assert ModelArgs.parse(args.text) == args
    assert ModelArgs.parse(args.text).text == args.text
    assert hash(args) == hash(ModelArgs.parse(args.text))


@given(accepted, st.text("UCISab", max_size=6), st.text("UCISabxy", max_size=3))
def test_more_letters_change_no_term_of_the_others(text: str, present: str, more: str):
    """So an item's namespaces may be counted in whether or not this candidate has them."""
    args = ModelArgs.parse(text)

    def effective(letters: str) -> list[str]:
        return [term for term in args.terms(letters) if set(term) <= set(present)]

    assert effective(present + more) == effective(present)
