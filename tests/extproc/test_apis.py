from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.apis import model_name
from extproc.apis.fields import Fields, read, read_prefix
from extproc.apis.path import api_of
from extproc.apis.restore import ModelRestorer
from extproc.raw_json import made_strict, undone
from extproc.request import Api, Refused

# -- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/completions", Api.COMPLETIONS),
        ("/v1/chat/completions", Api.CHAT_COMPLETIONS),
        ("/openai/v1/chat/completions?api-version=1", Api.CHAT_COMPLETIONS),
        ("/v1/responses", Api.RESPONSES),
        ("/v1/embeddings", Api.EMBEDDINGS),
        ("/v1/messages", Api.MESSAGES),
        ("/v1/messages/count_tokens", Api.MESSAGES),
        ("/inference/v1/generate", Api.GENERATE),
        ("/v1/models", Api.OTHER),
        ("/v1/mycompletions", Api.OTHER),
        ("/v1/threads/t1/messages", Api.OTHER),
        ("/v1/responses/r1/cancel", Api.OTHER),
        ("/v1/files?next=/v1/completions", Api.OTHER),
        ("", Api.OTHER),
    ],
)
def test_the_path_tells_the_api_at_the_border_of_a_path_element(path: str, api: Api) -> None:
    assert api_of("POST", path) is api


def test_only_a_post_is_an_inference_request() -> None:
    assert api_of("GET", "/v1/completions") is Api.OTHER


# -- fields ------------------------------------------------------------------------------------


def fields_of(api: Api, **document: Any) -> Fields:
    found = read(api, json.dumps({"model": "m", **document}).encode())
    assert isinstance(found, Fields)
    return found


@pytest.mark.parametrize(
    ("api", "document", "max_tokens"),
    [
        (Api.COMPLETIONS, {"max_tokens": 10**30}, None),
        (Api.COMPLETIONS, {"max_tokens": 7}, 7),
        (Api.CHAT_COMPLETIONS, {"max_tokens": 7}, 7),
        (Api.CHAT_COMPLETIONS, {"max_tokens": 7, "max_completion_tokens": 9}, 9),
        (Api.RESPONSES, {"max_output_tokens": 7, "max_tokens": 9}, 7),
        (Api.MESSAGES, {"max_tokens": 7}, 7),
        (Api.GENERATE, {"sampling_params": {"max_tokens": 7}}, 7),
        (Api.GENERATE, {"sampling_params": "x", "max_tokens": 7}, None),
        (Api.COMPLETIONS, {"max_tokens": "7"}, None),
        (Api.COMPLETIONS, {"max_tokens": True}, None),
        (Api.COMPLETIONS, {"max_tokens": -1}, None),
        (Api.COMPLETIONS, {}, None),
    ],
)
def test_each_api_has_its_own_name_for_the_output_limit(
    api: Api, document: dict[str, Any], max_tokens: int | None
) -> None:
    assert fields_of(api, **document).max_tokens == max_tokens


@pytest.mark.parametrize(
    ("api", "document", "size"),
    [
        (Api.COMPLETIONS, {"prompt": "four"}, 4),
        (Api.COMPLETIONS, {"prompt": ["ab", "cd"], "suffix": "e"}, 5),
        (Api.COMPLETIONS, {"prompt": [1, 2, 3]}, 12),
        (Api.COMPLETIONS, {"prompt": [[1, 2], [3]]}, 12),
        (Api.COMPLETIONS, {"prompt": "grüß"}, 6),
        (Api.EMBEDDINGS, {"input": ["ab", "cd"]}, 4),
        (Api.GENERATE, {"token_ids": [1, 2]}, 8),
        (Api.RESPONSES, {"input": "abc", "instructions": "de"}, 5),
        (Api.COMPLETIONS, {"prompt": 5}, 0),
        (Api.COMPLETIONS, {"prompt": []}, 0),
    ],
)
def test_the_prompt_is_measured_in_bytes_of_text(
    api: Api, document: dict[str, Any], size: int
) -> None:
    assert fields_of(api, **document).prompt_bytes == size


def test_an_image_in_a_message_is_not_taken_for_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9999}}
    content = [{"type": "text", "text": "What is this?"}, picture]
    found = fields_of(Api.CHAT_COMPLETIONS, messages=[{"role": "user", "content": content}])
    assert found.prompt_bytes < 100


_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "content", "role"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(_ANY_JSON)
def test_whatever_stands_where_messages_should_is_counted_and_left_to_the_pod(
    messages: object,
) -> None:
    found = fields_of(Api.CHAT_COMPLETIONS, messages=messages)
    assert 0 <= found.prompt_bytes < 1000


@pytest.mark.parametrize(("value", "stream"), [(True, True), (False, False), (1, False)])
def test_only_true_asks_for_a_stream(value: object, stream: bool) -> None:
    assert fields_of(Api.COMPLETIONS, stream=value).stream is stream


@pytest.mark.parametrize(
    ("body", "reason", "part"),
    [
        (b"", "invalid-json", "not valid JSON"),
        (b"{", "invalid-json", "not valid JSON"),
        (b'{"model": "m"} x', "invalid-json", "not valid JSON"),
        (b'{"model": "\xff"}', "invalid-json", "not valid JSON"),
        (b'{"model": "\\ud800"}', "invalid-json", "not valid JSON"),
        (b"[1]", "invalid-json", "must be a JSON object"),
        (b'"model"', "invalid-json", "must be a JSON object"),
        (b"{}", "missing-model", "has no model"),
        (b'{"model": null}', "missing-model", "has no model"),
        (b'{"model": ""}', "missing-model", "empty"),
        (b'{"model": 7}', "missing-model", "not a string"),
        (b'{"model": "' + b"m" * 5000 + b'"}', "missing-model", "5000 characters"),
        (b"[" * 100_000 + b"]" * 100_000, "invalid-json", "nested too deeply"),
    ],
)
def test_what_cannot_be_read_says_why(body: bytes, reason: str, part: str) -> None:
    refused = read(Api.COMPLETIONS, body)
    assert isinstance(refused, Refused)
    assert (refused.status, refused.reason) == (400, reason)
    assert part in refused.message


def test_what_python_model_servers_accept_is_accepted() -> None:
    found = read(Api.COMPLETIONS, b'{"model": "m", "temperature": NaN, "prompt": "\\ud800"}')
    assert isinstance(found, Fields)
    assert found.model == "m"


@pytest.mark.parametrize("api", [api for api in Api if api is not Api.OTHER])
def test_a_large_body_tells_the_same_as_a_small_one(api: Api) -> None:
    document = {
        "model": "m",
        "stream": True,
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "max_output_tokens": 7,
        "sampling_params": {"max_tokens": 8},
        "prompt": "four",
        "input": "four",
        "messages": [],
        "token_ids": [1, 2],
    }
    small = fields_of(api, **document)
    large = fields_of(api, **document, padding="x" * (1 << 20))
    assert (small.document is None, large.document is None) == (False, True)
    assert abs(large.prompt_bytes - small.prompt_bytes) <= 4
    same = msgspec.structs.replace(
        small, document=None, prompt_bytes=large.prompt_bytes, prompt_json=large.prompt_json
    )
    assert large == same


def test_of_a_large_body_the_prompt_stays_as_it_was_sent() -> None:
    large = fields_of(
        Api.CHAT_COMPLETIONS,
        model="m",
        messages=[{"role": "user", "content": "hi"}],
        cache_salt="s",
        padding="x" * (1 << 20),
    )
    assert large.prompt_json == (b'"s"', b"", b'[{"role": "user", "content": "hi"}]')
    assert fields_of(Api.EMBEDDINGS, model="m", input="i" * (1 << 20)).prompt_json == ()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[" + b" " * (1 << 20) + b"]", "invalid-json"),
        (b'{"model": "m"' + b" " * (1 << 20), "invalid-json"),
        (b'{"prompt": "' + b"x" * (1 << 20) + b'"}', "missing-model"),
        (b'{"model": "\xff", "prompt": "' + b"x" * (1 << 20) + b'"}', "invalid-json"),
        (b'{"model": "\\ud83d", "prompt": "' + b"x" * (1 << 20) + b'"}', "invalid-json"),
        (b'{"model": "m", "prompt": "' + b"x" * (1 << 20) + b'\xff"}', "invalid-json"),
        (b'{"model": "m", "n": NaN, "max_tokens": }' + b" " * (1 << 20), "invalid-json"),
        (b'{"model": "m", "n": 1NaN}' + b" " * (1 << 20), "invalid-json"),
        (b'{"model": "m", "n": - Infinity}' + b" " * (1 << 20), "invalid-json"),
        (b"[NaN]" + b" " * (1 << 20), "invalid-json"),
        (b'{"model": "' + b"m" * (1 << 20) + b'"}', "missing-model"),
        (b'{"model": [' + b" " * (1 << 20) + b"]}", "missing-model"),
        (b'{"model": "m", "max_tokens": ' + b"9" * 5000 + b" " * (1 << 20) + b"}", "invalid-json"),
    ],
)
def test_a_large_body_is_refused_for_the_same_reasons(body: bytes, reason: str) -> None:
    refused = read(Api.COMPLETIONS, body)
    assert isinstance(refused, Refused)
    assert refused.reason == reason


keys = st.sampled_from(["model", "prompt", 'mo"del', "mod\\el", "a", ""]) | st.text(max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def escaped(key: str) -> str:
    """The JSON string of ``key`` with every character written as an escape."""
    units = key.encode("utf-16-be").hex()
    return '"' + "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)) + '"'


_LARGE = 1 << 20
apis = st.sampled_from([api for api in Api if api is not Api.OTHER])


@st.composite
def odd_values(draw: st.DrawFn) -> str:
    """JSON text as clients write it, also what only lenient parsers take, or none."""
    return draw(
        st.sampled_from(
            [
                '"m"',
                "true",
                "7",
                "-1",
                "7.0",
                "null",
                '""',
                "NaN",
                "Infinity",
                "-Infinity",
                "1e400",
                "-1e400",
                "1" * 300,
                '"NaN and -Infinity"',
                '"\\ud83d"',
                '"cut \\uD83D"',
                '"\\ude00\\ud83d"',
                '"\\ud83d\\ude00"',
                '"\\\\ud83d \\\\\\ud83d"',
                '"\U0001f600"',
                '{"max_tokens":NaN}',
                '{"max_tokens":8,"x":[Infinity]}',
                '{"max_tokens":9,"max_tokens":"\\ud83d"}',
                '{"model":"inner","prompt":NaN}',
                "[NaN,{}]",
                '["\\udfff",[-Infinity]]',
                "[1,2]",
                "[" * 50 + "]" * 50,
                # No JSON to any parser.
                "--Infinity",
                "-NaN",
                "1NaN",
                "NaN1",
                "NaNNaN",
                "nan",
                "Infinit",
                "+Infinity",
                "1-Infinity",
                "01",
                "NaN,",
                "[NaN",
                '"\\NaN"',
                '"\\ud8"',
                '"\\u00NaN"',
                '"\t\\ud83d"',
                "",
            ]
        )
        | json_values.map(json.dumps)
    )


@st.composite
def odd_objects(draw: st.DrawFn) -> bytes:
    """The text of an object with the keys that matter, some twice, some in escapes."""
    names = ["model", "stream", "max_tokens", "max_completion_tokens", "max_output_tokens"]
    names += ["sampling_params", "prompt", "suffix", "messages", "tools", "input", "instructions"]
    names += ["system", "token_ids", "cache_salt", "temperature", "other"]
    members = [] if draw(st.integers(0, 3)) == 0 else ['"model":"m"']
    for name in draw(st.lists(st.sampled_from(names), max_size=5)):
        key = escaped(name) if draw(st.booleans()) else json.dumps(name)
        members.append(f"{key}:{draw(odd_values())}")
    draw(st.randoms()).shuffle(members)
    return f"{{{','.join(members)}}}".encode()


def padded(body: bytes, way: str) -> bytes:
    """The same content in more than 1 MiB."""
    if way == "blanks before":
        return b" " * _LARGE + body
    if way == "blanks inside":
        return body.replace(b"{", b"{" + b"\n" * _LARGE, 1)
    if way == "blanks after":
        return body + b"\r" * _LARGE
    comma = b"" if body == b"{}" else b","
    return b'{"padding":"' + b"x" * _LARGE + b'"' + comma + body[1:]


@settings(max_examples=400, deadline=None)
@given(
    apis,
    odd_objects(),
    st.sampled_from(["blanks before", "blanks inside", "blanks after", "member"]),
)
def test_whatever_a_body_holds_it_is_read_alike_below_and_above_1_mib(
    api: Api, body: bytes, way: str
) -> None:
    small, large = read(api, body), read(api, padded(body, way))
    if isinstance(small, Refused) or isinstance(large, Refused):
        assert isinstance(small, Refused), large
        assert isinstance(large, Refused), small
        assert (large.status, large.reason) == (small.status, small.reason)
        return
    assert (large.model, large.stream, large.max_tokens) == (
        small.model,
        small.stream,
        small.max_tokens,
    )
    # The prompt is as the client wrote it. (Its size is roughly that: it is not decoded.)
    keys_of_texts = {
        Api.COMPLETIONS: ["prompt"],
        Api.CHAT_COMPLETIONS: ["tools", "messages"],
        Api.RESPONSES: ["tools", "instructions", "input"],
        Api.EMBEDDINGS: [],
        Api.MESSAGES: ["tools", "system", "messages"],
        Api.GENERATE: ["token_ids"],
    }[api]
    keys = ["cache_salt", *keys_of_texts] if keys_of_texts else []
    document = json.loads(body)
    for key, text in zip(keys, large.prompt_json, strict=True):
        assert (key in document) == (text != b"")
        # By repr, since NaN equals nothing.
        assert text == b"" or repr(json.loads(text)) == repr(document[key])


@pytest.mark.parametrize(
    "odd",
    ["NaN", "-Infinity", "1e400", '"cut in an emoji \\ud83d"', '"NaN \\ud83d"'],
)
def test_a_large_body_may_hold_what_a_small_one_may(odd: str) -> None:
    """JavaScript writes half a surrogate pair where it cuts a long prompt in an emoji."""
    body = '{"stream":true,"model":"NaN m","max_tokens":7,"prompt":["\\ud83d NaN",%s],"x":%s}'
    large = read(Api.COMPLETIONS, (body % (odd, odd)).encode() + b" " * _LARGE)
    assert isinstance(large, Fields)
    assert (large.model, large.stream, large.max_tokens) == ("NaN m", True, 7)
    prompt = f'["\\ud83d NaN",{odd}]'.encode()
    assert large.prompt_json == (b"", prompt)
    assert large.prompt_bytes == len(prompt)


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"NaN", b"Infinity", b"-Infinity", b"\\ud", b"\\uD", b"\\uf", b"\\ue", b" 0 "),
                *(b" 1 ", b"    0    ", b"    2    ", b"    4   ", b"-", b"I", b"N", b"\\"),
            ]
        ),
        min_size=1,
    ),
    st.integers(0, 20),
)
def test_what_was_made_strict_is_undone_wherever_pieces_are_cut(
    words: list[bytes], blanks: int
) -> None:
    text = b"[" + b" " * blanks + b"".join(words) * (150_000 // len(b"".join(words))) + b"]"
    first, second = made_strict(text)
    assert len(first) == len(second) == len(text)
    assert undone(first, second) == text


def test_the_limit_in_large_sampling_parameters_is_found() -> None:
    schema = {"x": "y" * (1 << 17), "max_tokens": 3}
    sampling = {"guided_json": schema, "max_tokens": 8, "top_p": float("nan")}
    small = fields_of(Api.GENERATE, sampling_params=sampling)
    large = fields_of(Api.GENERATE, sampling_params=sampling, padding="x" * _LARGE)
    assert small.max_tokens == large.max_tokens == 8


def test_a_name_that_is_too_long_is_refused_in_a_large_body_also_where_none_is_needed() -> None:
    for body in (
        b'{"model": "' + b"m" * 20_000 + b'"}',
        b'{"model": [' + b" " * 20_000 + b"]}",
    ):
        small = read(Api.GENERATE, body)
        large = read(Api.GENERATE, body + b" " * _LARGE)
        assert isinstance(small, Refused)
        assert small == large


@pytest.mark.parametrize(
    "filler",
    [
        b'"":0,',
        b'"model":"m",',
        b'"model":NaN,',
        b'"\\u0061":0,',
        b'"x":NaN,',
        b'"x":-Infinity,',
        b'"\\ud83d":0,',
        b'"a":[[]],',
        b'"a":[' + (b"[" * 14 + b"]" * 14 + b",") * 100_000 + b"0],",
        b'"x":[' + b"-Infinity," * 100_000 + b"0],",
        b'"x":"' + b"\\ud83d" * 100_000 + b'",',
        b'"x":"' + b"\\" * 200_000 + b'",',
        b'"x":' + b"[" * 900 + b"]" * 900 + b",",
        b'"x":' + (b"[[]" + b",[]" * 6000 + b",") * 400 + b"0" + b"]" * 400 + b",",
        b'"prompt":"' + b"\\ud83d" * 1_300_000 + b'",',
    ],
)
def test_leniency_with_a_large_body_does_not_take_long(filler: bytes) -> None:
    """What makes the strict parser fail comes last: then all of it is looked at twice."""
    body = b'{"model":"m",' + filler * ((8 << 20) // len(filler)) + b'"model":"m","z":NaN}'
    began = time.process_time()
    found = read(Api.COMPLETIONS, body)
    assert time.process_time() - began < 1.0
    assert isinstance(found, Fields)
    assert found.model == "m"


def test_the_pictures_of_a_large_body_are_not_taken_for_text() -> None:
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + "A" * (2 << 20)},
    }
    found = fields_of(Api.CHAT_COMPLETIONS, messages=[{"role": "user", "content": [picture]}])
    assert found.prompt_bytes < 200


@pytest.mark.parametrize(
    "filler",
    [
        b'"":0,',
        b'"a":[[]],',
        b'"\\u0061":0,',
        b'"' + b'\\"' * 99 + b'":1,',
        b'"x":"\\\\",',
        b'"x":"' + b"\\" * 200_000 + b'",',
    ],
)
def test_no_shape_of_a_body_takes_long(filler: bytes) -> None:
    """A picker that is busy with one client's body serves nobody else."""
    body = b'{"model":"m",' + filler * ((4 << 20) // len(filler)) + b'"z":' + b"[" * 99 + b"]" * 99
    began = time.process_time()
    assert isinstance(read(Api.COMPLETIONS, body + b"}"), Fields)
    assert model_name.replaced(body + b"}", "t").startswith(b'{"model":"t",')
    assert time.process_time() - began < 1.5


def test_generate_needs_no_model() -> None:
    found = read(Api.GENERATE, b'{"token_ids": [1]}')
    assert isinstance(found, Fields)
    assert found.model == ""


@given(json_values)
def test_any_json_is_read_or_refused(value: object) -> None:
    for api in Api:
        if api is not Api.OTHER:
            assert isinstance(read(api, json.dumps(value).encode()), Fields | Refused)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    assert isinstance(read(Api.CHAT_COMPLETIONS, body), Fields | Refused)
    assert read_prefix(Api.CHAT_COMPLETIONS, body).prompt_bytes == len(body)


# -- the model's name in the raw bytes ---------------------------------------------------------


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """The JSON text of an object, with duplicate keys, odd blanks and escapes."""
    blank = st.text(" \t\r\n", max_size=2)
    members = []
    for key, value in draw(st.lists(st.tuples(keys, json_values), max_size=6)):
        plain = draw(st.booleans())
        written = json.dumps(key, ensure_ascii=plain) if draw(st.booleans()) else escaped(key)
        text = json.dumps(value, ensure_ascii=plain, indent=draw(st.sampled_from([None, 1])))
        members.append(f"{draw(blank)}{written}{draw(blank)}:{draw(blank)}{text}{draw(blank)}")
    return f"{draw(blank)}{{{','.join(members) or draw(blank)}}}{draw(blank)}".encode()


def pairs_of(body: bytes) -> list[tuple[str, object]]:
    """The members as Python's parser sees them, duplicates included."""
    pairs: list[tuple[str, object]] = json.loads(body, object_pairs_hook=list)
    return pairs


@given(objects())
def test_the_scanner_sees_the_members_that_a_parser_sees(body: bytes) -> None:
    found = [
        (key, json.loads(body[start:end], object_pairs_hook=list))
        for key, start, end in model_name.members(body)
    ]
    assert found == pairs_of(body)


def without_models(body: bytes) -> bytes:
    for start, end in reversed(model_name.spans(body)):
        body = body[:start] + body[end:]
    return body


@given(objects(), st.text(min_size=1, max_size=20), st.sampled_from([0, 1, 64]))
def test_a_rewrite_changes_the_top_level_model_and_nothing_else(
    body: bytes, name: str, usual: int
) -> None:
    pairs = pairs_of(body)
    if not isinstance(dict(pairs).get("model"), str):
        return
    with pytest.MonkeyPatch.context() as patch:
        # Beyond so many members the rest is skipped in bulk; it must make no difference.
        patch.setattr(model_name, "_USUAL", usual)
        after = model_name.replaced(body, name)
        assert without_models(after) == without_models(body)
    assert pairs_of(after) == [(key, name if key == "model" else value) for key, value in pairs]


@given(objects(), st.data())
def test_of_a_prefix_only_whole_members_are_seen(body: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(body)))
    seen = list(model_name.members(body[:cut]))
    assert seen == list(model_name.members(body))[: len(seen)]


def test_every_spelling_and_every_duplicate_of_the_key_is_replaced() -> None:
    body = rb'{"mod\u0065l":"a","x":{"model":"a"},"model" :"a","y":"\"model\":\"a\""}'
    assert model_name.replaced(body, "b") == (
        rb'{"mod\u0065l":"b","x":{"model":"a"},"model" :"b","y":"\"model\":\"a\""}'
    )


@pytest.mark.parametrize(
    "filler",
    [
        b'"model":"m",',
        b'"\\u006dodel":0,',
        b'"a":' + b"[" * 40 + b"]" * 40 + b",",
        b'"a":[' + (b"[" * 14 + b"]" * 14 + b",") * 250_000 + b"0],",
    ],
)
def test_a_body_made_to_keep_the_picker_busy_is_not_looked_through(filler: bytes) -> None:
    """Each key may become as long as a header: a body of 1 MiB would grow to gigabytes."""
    body = b'{"model":"m",' + filler * ((8 << 20) // len(filler)) + b'"z":0}'
    began = time.process_time()
    with pytest.raises(model_name.IntricateError):
        model_name.replaced(body, "t" * 60_000)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("levels", [0, 1, 3, 13, 40])
def test_a_large_body_is_looked_through_however_deeply_it_nests(levels: int) -> None:
    """Less of it is skipped in bulk, so that nobody waits for what cannot be."""
    part = b"[" * levels + b'{"text": "model", "model": "not this"}' + b"]" * levels
    body = b'{"messages": [' + b",".join([part] * 100 + [b'"' + b"x" * (2 << 20) + b'"'])
    body += b'], "model": "m", "last": ' + part + b"}"
    after = model_name.replaced(body, "target")
    assert after == body.replace(b'"model": "m"', b'"model": "target"')


@pytest.mark.parametrize("name", ['a"b', "a\\b", "grüße", "\n"])
def test_a_name_with_special_characters_is_escaped(name: str) -> None:
    after = model_name.replaced(b'{"model":"a","n":1e400}', name)
    assert json.loads(after)["model"] == name
    assert after.endswith(b',"n":1e400}')


def test_a_prefix_tells_model_stream_and_limit_where_they_come_early() -> None:
    body = b'{"model": "m", "stream": true, "max_tokens": 5, "prompt": "never ends'
    found = read_prefix(Api.COMPLETIONS, body)
    assert (found.model, found.stream, found.max_tokens) == ("m", True, 5)


def test_a_number_that_is_cut_off_is_not_taken_for_a_smaller_one() -> None:
    assert read_prefix(Api.COMPLETIONS, b'{"model": "m", "max_tokens": 5').max_tokens is None


# -- putting it back ---------------------------------------------------------------------------

FORMS = [b'"model":"told"', b'"model": "told"', b'"model" :\n"told"']
NEAR = [b'"model":"tolder"', b'"model":"', b'"mod', b'\\"model\\":\\"told\\"', b'"model"', b"x"]


@given(st.lists(st.sampled_from(FORMS + NEAR) | st.binary(max_size=5), max_size=12), st.data())
def test_the_models_name_is_put_back_wherever_chunks_cut_it(
    pieces: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    in_chunks = ModelRestorer("told", "asked")
    got = b"".join(in_chunks.feed(chunk, end=False) for chunk in chunks)
    got += in_chunks.feed(b"", end=True)
    assert got == ModelRestorer("told", "asked").feed(whole, end=True)
    wanted = whole
    for form in FORMS:
        wanted = wanted.replace(form, form.replace(b"told", b"asked"))
    if not any(b in whole for b in (b"\t", b"\r")):
        assert got == wanted


def test_an_event_of_a_stream_is_not_held_back() -> None:
    restorer = ModelRestorer("told", "asked")
    event = b'data: {"model":"told","choices":[]}\n\n'
    assert restorer.feed(event, end=False) == event.replace(b"told", b"asked")


def test_the_beginning_of_a_body_that_is_no_json_is_read_as_far_as_it_goes() -> None:
    found = read_prefix(
        Api.COMPLETIONS, b'{"model": "m", "bad\\q": 1, "stream": true, "prompt": "x'
    )
    assert (found.model, found.stream) == ("m", True)
