"""YAML and JSON as trees of nodes with lines."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pools.manifests.fields import shown
from pools.manifests.node import Node
from pools.manifests.text import MAX_DEPTH, json_documents, yaml_documents


def plain(node: Node | None) -> object:
    assert node is not None
    match node.value:
        case dict():
            return {key: plain(item) for key, item in node.value.items()}
        case list():
            return [plain(item) for item in node.value]
        case value:
            return value


def only(text: str) -> Node:
    [document] = yaml_documents(text)
    assert document.error is None, document.error
    assert document.node is not None
    return document.node


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcxyz-_/.", min_size=1, max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON_VALUES.filter(lambda value: value is not None))
def test_yaml_written_by_a_dumper_is_read_back_as_it_was(value: object) -> None:
    assert plain(only(yaml.safe_dump(value, allow_unicode=True))) == value


@given(JSON_VALUES)
def test_json_reads_the_same_in_both_formats(value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    [document] = json_documents(text)
    assert plain(document.node) == value
    if value is not None:
        assert plain(only(text)) == value


@given(st.text("ab:-{}[]&*!|>'\"%@#,?\n \t0.<", max_size=80))
def test_no_text_whatever_makes_the_reader_raise(text: str) -> None:
    for document in yaml_documents(text) + json_documents(text):
        assert (document.node is None) != (document.error is None)


def test_every_field_knows_the_line_of_its_key() -> None:
    node = only("# comment\na: 1\nb:\n\n  c:\n  - x\n  - y: 2\n")
    assert isinstance(node.value, dict)
    assert node.line == 2
    b = node.value["b"]
    assert isinstance(b.value, dict)
    c = b.value["c"]
    assert isinstance(c.value, list)
    assert (b.line, c.line, [item.line for item in c.value]) == (3, 5, [6, 7])


def test_a_syntax_error_costs_one_document_and_names_its_line() -> None:
    first, broken, last = yaml_documents("a: 1\n---\nb: [1\nc: 2\n---\nd: 3\n")
    assert plain(first.node) == {"a": 1}
    assert plain(last.node) == {"d": 3}
    assert last.line == 6
    assert broken.error is not None
    assert broken.error.line == 4


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n---\n# x\n...\n", "~\n"])
def test_comments_and_blank_documents_are_no_documents(text: str) -> None:
    assert yaml_documents(text) == []


def test_a_directive_before_the_document_is_fine() -> None:
    assert plain(only("%YAML 1.1\n---\na: 1\n")) == {"a": 1}


@pytest.mark.parametrize(
    "word", ["1:2:3:4:5:6:7:8", "2024-01-01", "12:30", "::1", "1.2.3", "08000"]
)
def test_addresses_and_dates_stay_text(word: str) -> None:
    assert plain(only(f"a: {word}")) == {"a": word}


@pytest.mark.parametrize(
    ("word", "value"),
    [("yes", True), ("Off", False), ("0x1f", 31), ("010", 8), ("1e3", 1000.0), ("-5", -5)],
)
def test_words_mean_what_they_mean_to_kubernetes(word: str, value: object) -> None:
    assert plain(only(f"a: {word}")) == {"a": value}
    assert plain(only(f"a: '{word}'")) == {"a": word}
    assert plain(only(f"a: !!str {word}")) == {"a": word}


@pytest.mark.parametrize(
    "number", ["1" * 5000, "-" + "9" * 400, "0x" + "f" * 5000, "0" + "7" * 9000]
)
def test_a_number_of_any_length_is_something_that_can_be_shown(number: str) -> None:
    for documents in (yaml_documents(f"a: {number}"), json_documents(f'{{"a": {number}}}')):
        [document] = documents
        if document.error is None:
            assert document.node is not None
            assert isinstance(document.node.value, dict)
            value = document.node.value["a"]
            assert shown(value)
            assert isinstance(value.value, float | str)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_words_that_python_takes_for_numbers_are_not_json(word: str) -> None:
    [document] = json_documents(f'{{"a": {word}}}')
    assert document.error is not None
    assert document.error.message == f"is not valid JSON: {word} is not a number"


@pytest.mark.parametrize("text", [r'{"a": ["\ud800"]}', r'{"\udc00\ud800": 1}'])
def test_half_a_character_is_not_text(text: str) -> None:
    [document] = json_documents(text)
    assert document.error is not None
    assert "half a character" in document.error.message
    [whole] = json_documents(r'{"a": "\ud83d\ude00"}')
    assert plain(whole.node) == {"a": "😀"}


def test_a_field_given_twice_is_an_error_and_not_a_silent_choice() -> None:
    [document] = yaml_documents("a: 1\nb: 2\na: 3\n")
    assert document.error is not None
    assert document.error.message == "the field 'a' is given twice in one mapping"
    assert document.error.line == 3


def test_anchors_and_merge_keys_are_followed() -> None:
    text = "base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: *b\n"
    assert plain(only(text)) == {
        "base": {"x": 1, "y": 2},
        "one": {"x": 1, "y": 3},
        "two": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: *nowhere", "? {a: b}\n: c", "a: {<<: 3}"])
def test_what_has_no_meaning_in_a_manifest_is_an_error(text: str) -> None:
    [document] = yaml_documents(text)
    assert document.error is not None
    assert document.error.line == 1


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 200_000])
def test_a_deeply_nested_file_is_refused_and_crashes_nothing(depth: int) -> None:
    for documents in (yaml_documents("[" * depth), json_documents("[" * depth + "]" * depth)):
        if depth > 1000 or documents[0].error:
            assert documents[0].error is not None


def test_exponential_aliases_take_no_exponential_time() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    node = only("\n".join(rows))
    assert isinstance(node.value, dict)
    assert len(node.value) == 30


def test_a_control_character_is_reported_with_its_line() -> None:
    _, broken = yaml_documents("a: 1\n---\nb: \u00e4\u00e4\u00e4\nc: \x07\nd: 1\n")
    assert broken.error is not None
    assert broken.error.message == "is not valid YAML: the character U+0007 is not allowed"
    assert broken.error.line == 4
