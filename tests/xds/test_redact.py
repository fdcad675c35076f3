"""What a route adds to requests may be a password."""

import json

from pools.manifests import read_object
from pools.model import HTTPRoute, World
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
