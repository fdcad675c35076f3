"""Expressions as Envoy's engine takes them. e2e asks a real Envoy about the same lists."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.expressions import problem_of_expression

TAKEN = [
    r"/v[0-9]+/.*",
    "(?i)/x|(?:b)+?",
    "(?P<team>[a-z]+)(?<user>x)",
    "(?s-i:.)(?U)a*",
    r"\Q*[(\E+",
    r"\d\W[\w-z][[:alpha:][:^digit:]]",
    r"\x41\x{e9}\012\0\a\t\z",
    "[]a][^]a][a-]",
    "a{,5}{x{2a{01}",
    "a{996}",
    "[a-z]{0,498}",
    "é{995}",
    "(?:a?b){332}",
    "(?:a{10}){90}",
    r"\pL+[^\p{Greek}]\PN",
    "a\0b",
    "(" * 300 + ")" * 300,
    "(?:" * 1020 + "a" + ")" * 1020,
    r"é[à-ü]日{3}",
    "^*$|()",
]
REFUSED = {
    "(": "missing )",
    "a)": "unexpected )",
    "[a": "missing ]",
    "a\\": "trailing \\",
    "*a": "no argument for repetition operator: *; put",
    "a|+": "no argument for repetition operator: +",
    "a**": "bad repetition operator: **; put what is repeated into (?:...)",
    "a{2}{3}": "bad repetition operator: {2}{3}",
    "a{3,1}": "invalid repetition size: {3,1}",
    "a{1001}": "invalid repetition size: {1001}",
    "(a{500}){3}": "invalid repetition size: {3}",
    "a{99999999}": "invalid repetition size: {99999999}",
    "a(?=b)": "invalid perl operator: (?=",
    "(?<!x)y": "invalid perl operator: (?<!",
    "(?x)a": "invalid perl operator: (?x",
    "(?u)a": "invalid perl operator: (?u",
    "(?P=n)": "invalid perl operator: (?P",
    "(?P<é>a)": "invalid named capture group: (?P<é>",
    r"(a)\1": r"invalid escape sequence: \1",
    r"\Z": r"invalid escape sequence: \Z",
    r"\u00e9": r"invalid escape sequence: \u",
    r"[\b]": r"invalid escape sequence: \b",
    r"\é": "invalid escape sequence: \\",
    r"\x{100}": r"invalid escape sequence: \x{100",
    "[z-a]": "invalid character class range: z-a",
    "[[:foo:]]": "invalid character class range: [:foo:]",
    r"\x{": r"\x{ is not closed",
    r"\p{Foo}": r"invalid character class range: \p{Foo}",
    "a{997}": "takes 1,000 instructions of RE2: it has 1,001; repeat less",
    "[a-z]{0,499}": "it has 1,002",
    "é{996}": "it has 1,001",
    "(?:a?b){333}": "it has 1,003",
    "(?:a{1,30}){1,30}": "it has 1,803",
    "(?:[a-z]?){0,999}" * 9: "it has far more",
    "": "is empty",
}
REFUSED_BY_US_ALONE = {
    r"(?i)\pL": r"both (?i) and \p",
    r"(?s-m:\PL(?si:a))": r"both (?i) and \p",
    "\ud800": "half of a surrogate pair",
    "/" * 4097: "has more than 4,096 characters",
}


@pytest.mark.parametrize("pattern", TAKEN)
def test_what_envoy_takes_is_taken(pattern: str) -> None:
    assert problem_of_expression(pattern) == ""


@pytest.mark.parametrize(("pattern", "said"), (REFUSED | REFUSED_BY_US_ALONE).items())
def test_what_envoy_rejects_is_refused_in_words(pattern: str, said: str) -> None:
    assert said in problem_of_expression(pattern)


@given(
    st.text(max_size=30)
    | st.text(r"ab()[]{}*+?|^$.\-:,019xQEPpsdw<>=!iU", max_size=30)
    | st.lists(st.sampled_from([*TAKEN, *REFUSED]), max_size=4).map("".join)
)
def test_whatever_the_text_is_it_is_taken_or_refused(pattern: str) -> None:
    assert isinstance(problem_of_expression(pattern), str)


@pytest.mark.parametrize(
    "piece",
    [
        *("(", ")", "(?:", "(?:|", "(?P<a>", "[", "[[:", "[^", "|", "a|", "{", "\\", "\\Q", "\\x{"),
        *(".?.?", "a{0,30}", "x{0,1000}", "(?:[a-z]?){0,999}", "(?:a{0,31}){0,31}|", "(?i)[^k]"),
        *(r"\pL", r"(?i)\pL", r"[\PL\pL]", "\0", "é", "\ud800"),
    ],
)
@pytest.mark.parametrize("length", [100, 4096, 100_000])
def test_no_expression_takes_long(piece: str, length: int) -> None:
    """With RE2's own limit of memory some took ten seconds."""
    started = time.process_time()
    problem_of_expression(piece * (length // len(piece)))
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("opened", "closed"),
    [("(", ")"), ("(?:", ")*"), ("(?:a|", ")"), ("(?:|", ")"), ("(?i:", "){2}")],
)
def test_nor_does_a_deep_one(opened: str, closed: str) -> None:
    depth = 4096 // len(opened + closed)
    started = time.process_time()
    problem_of_expression(opened * depth + closed * depth)
    assert time.process_time() - started < 1
