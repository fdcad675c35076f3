"""What a route adds to requests may be a password."""

import json

import pytest

from pools.manifests import read_object
from pools.model import HTTPRoute, World
from xds.debug.redact import REDACTED, redacted
from xds.debug.world import world_json


def test_a_token_that_a_route_adds_is_not_shown() -> None:
    headers = [{"name": "Authorization", "value": "Bearer abc"}, {"name": "x-team", "value": "red"}]
    modifier = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": headers}}
    manifest = read_object(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "r"},
            "spec": {
                "rules": [{"filters": [modifier], "backendRefs": [{"name": "s", "port": 80}]}]
            },
        },
        "kubernetes",
    )
    assert manifest is not None
    assert isinstance(manifest.object, HTTPRoute)
    shown = json.dumps(world_json(World(routes=(manifest.object,))))
    assert "Bearer abc" not in shown
    assert "red" in shown


TOKEN = "".join(["xK9", "pQ2", "vL7", "mR4", "tB8", "nW1"])


@pytest.mark.parametrize(
    "shown",
    [
        ["x-upstream-auth", "letmein"],
        {"header": {"key": "x-upstream-auth", "value": "letmein"}},
        {"key": "x-team", "value": "Bearer letmein"},
        {"key": "x-team", "value": f"red {TOKEN}"},
        {"key": "x-team", "value": f"{TOKEN}.{TOKEN}.{TOKEN}"},
        {"uri": "https://me:letmein@store/models"},
        {"uri": "https://store/models?X-Amz-Credential=letmein&X-Amz-Signature=letmein"},
        {"uri": "https://store/models?sv=2024&sig=letmein"},
        {"uri": f"https://store/models?u={TOKEN}"},
    ],
)
def test_a_secret_is_hidden_by_its_place_and_by_what_it_looks_like(shown: object) -> None:
    text = json.dumps(redacted(shown))
    assert REDACTED in text
    assert "letmein" not in text
    assert TOKEN not in text


@pytest.mark.parametrize(
    "shown",
    [
        "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "envoy.filters.http.header_mutation/response_headers_to_remove",
        "pool/default/vllm-llama3-8b-instruct-v2",
        "vllm-llama3-8b-instruct-7d9c8b6f5d-x2x4z",
        "meta-llama/Llama-3.1-8B-Instruct",
        "InferenceModelRewrite",
        "x-gateway-destination-endpoint-served",
        "d41d8cd98f00b204e9800998ecf8427e",
        "6e49ed27-0af9-4421-8c5c-79d4000addaa",
        "2026-12-01T03:52:29.818123Z",
        "[2001:db8::1428:57ab]:8000",
        "https://store/models?version=3&page=2",
        "author: the token-usage of prompts",
    ],
)
def test_what_people_need_to_read_is_shown(shown: str) -> None:
    assert redacted({"text": [shown]}) == {"text": [shown]}
