"""Expressions as Envoy's engine takes them. e2e asks a real Envoy about the same lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.re2 import problem_of_expression

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
    "a{990}",
    "(?:a{10}){90}",
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
    "*a": "nothing to repeat",
    "a|+": "nothing to repeat",
    "a**": "a repetition is repeated",
    "a{2}{3}": "a repetition is repeated",
    "a{3,1}": "invalid repetition {3,1}",
    "a{1001}": "repeated more than 1000 times",
    "(a{500}){3}": "repeated more than 1000 times",
    "a{99999999}": "repeated more than 1000 times",
    "a(?=b)": "invalid operator (?=",
    "(?<!x)y": "invalid operator (?<!",
    "(?x)a": "invalid operator (?x",
    "(?u)a": "invalid operator (?u",
    "(?P=n)": "invalid operator (?P=",
    "(?P<é>a)": "invalid operator (?P<",
    r"(a)\1": r"invalid escape \1",
    r"\Z": r"invalid escape \Z",
    r"\u00e9": r"invalid escape \u",
    r"[\b]": r"invalid escape \b",
    r"\é": "invalid escape",
    r"\x{100}": r"invalid escape \x{100}",
    "[z-a]": "invalid range z-a",
    "[[:foo:]]": "invalid class [:foo:]",
    "a{1000}": "too large",
    "[a-z]{0,900}": "too large",
    "(?:a{1,30}){1,30}": "too large",
    "": "is empty",
}


@pytest.mark.parametrize("pattern", TAKEN)
def test_what_envoy_takes_is_taken(pattern: str) -> None:
    assert problem_of_expression(pattern) == ""


@pytest.mark.parametrize(("pattern", "said"), REFUSED.items())
def test_what_envoy_rejects_is_refused_in_words(pattern: str, said: str) -> None:
    assert said in problem_of_expression(pattern)


@given(
    st.text(max_size=30)
    | st.text(r"ab()[]{}*+?|^$.\-:,019xQEPpsdw<>=!iU", max_size=30)
    | st.lists(st.sampled_from([*TAKEN, *REFUSED]), max_size=4).map("".join)
)
def test_whatever_the_text_is_it_is_taken_or_refused(pattern: str) -> None:
    assert isinstance(problem_of_expression(pattern), str)


def test_expressions_are_read_in_time_that_grows_with_them() -> None:
    for piece in ("[[:", "(?:", "a{9}", "\\Q", "((", "[^", "a|", "{", "\\x{"):
        problem_of_expression(piece * (4096 // len(piece)))
