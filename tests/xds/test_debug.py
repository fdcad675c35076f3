"""What the debug pages show."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from starlette.testclient import TestClient

from inspection.live import Live
from pools.model import Origin, Problem, Severity, World
from tests.xds.worlds import name, pool, route, rule, to, world
from xds.debug import ChangeLog, app
from xds.debug.snapshots import TYPE_NAMES
from xds.provider import WorldProvider
from xds.resource import ENDPOINT, SECRET, TYPES, Resource
from xds.snapshot import Node
from xds.status import NodeStatus, State, StreamStatus, XdsStatus
from xds.translate import TranslateSettings, Translator
from xds.translate.render import as_json, message_json, render_static


class Subject:
    def __init__(self, described: World | None = None) -> None:
        self.provider = WorldProvider(Translator(TranslateSettings()))
        self.registry = CollectorRegistry()
        Counter("things", "Things.", registry=self.registry).inc(3)
        self.change_log = ChangeLog()
        self.live = Live(dict)
        self.connected: tuple[NodeStatus, ...] = ()
        if described is not None:
            self.provider.offer(described)

    def not_ready(self) -> str:
        return "" if self.provider.world else "nothing yet"

    def status(self) -> XdsStatus:
        return XdsStatus("test", 0.0, self.connected, (), 0)


LLAMA = world(
    pool("llama", origin=Origin("InferencePool", name("llama"), "pools.yaml", 3)),
    pool("qwen"),
    problems=(
        Problem(
            Severity.ERROR,
            "port must be a number",
            Origin("InferencePool", name("bad"), "bad.yaml", 7),
        ),
    ),
)


@pytest.fixture
def client() -> TestClient:
    return TestClient(app(Subject(LLAMA)))


def get(client: TestClient, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_index_lists_every_page_for_programs_and_for_people(client: TestClient):
    listed = get(client, "/debug")["pages"]
    assert "/debug/xds/nodes" in listed
    page = client.get("/debug", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    for path in listed:
        if "{" not in path and "=" not in path and path != "/debug/events":
            assert f'href="{path}"' in page.text
            assert client.get(path).status_code == 200


def test_a_snapshot_tells_versions_origins_and_needs(client: TestClient):
    found = get(client, "/debug/xds/snapshots/default")
    cluster = found["resources"]["clusters"]["pool/default/llama"]
    assert cluster["origin"] == "InferencePool default/llama (pools.yaml:3)"
    assert cluster["needs"] == ["endpoints/pool/default/llama"]
    assert len(cluster["version_info"]) == 16
    assert found["counts"] == {"clusters": 3, "endpoints": 2, "listeners": 1, "routes": 1}


def test_a_resource_is_shown_with_envoys_field_names_and_opened_anys(client: TestClient):
    found = get(client, "/debug/xds/snapshots/default/clusters/pool/default/llama")
    cluster = found["resource"]
    assert cluster["@type"].endswith("envoy.config.cluster.v3.Cluster")
    assert cluster["outlier_detection"]["enforcing_consecutive_5xx"] == 0
    (policy,) = cluster["load_balancing_policy"]["policies"]
    config = policy["typed_extension_config"]["typed_config"]
    assert config["@type"].endswith("override_host.v3.OverrideHost")
    assert config["override_host_sources"][0]["metadata"]["key"] == "envoy.lb"


def test_all_resources_of_a_type_come_at_once(client: TestClient):
    found = get(client, "/debug/xds/snapshots/default/endpoints")
    assert [one["name"] for one in found["endpoints"]] == [
        "pool/default/llama",
        "pool/default/qwen",
    ]


def test_every_type_has_a_name_in_paths():
    assert set(TYPE_NAMES.values()) == set(TYPES)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/debug/xds/snapshots/nowhere", "default"),
        ("/debug/xds/snapshots/default/things", "listeners"),
        ("/debug/xds/snapshots/default/clusters/gone", "pool/default/llama"),
        ("/debug/xds/nodes/ghost", "/debug/xds/nodes"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(client: TestClient, path: str, says: str):
    answer = client.get(path)
    assert answer.status_code == 404
    assert says in answer.json()["error"]


def test_the_world_is_shown_with_its_problems(client: TestClient):
    found = get(client, "/debug/world")
    assert found["pools"]["default/llama"]["origin"]["line"] == 3
    assert [e["key"] for e in found["pools"]["default/llama"]["endpoints"]] == [
        "10.0.0.1:8000",
        "10.0.0.2:8000",
    ]
    (problem,) = found["problems"]
    assert problem["text"] == "bad.yaml:7: InferencePool default/bad: port must be a number"


def test_a_server_with_nothing_to_serve_is_ready_and_warns():
    empty = TestClient(app(Subject(world()))).get("/readyz")
    assert (empty.status_code, empty.text) == (
        200,
        "ok\nwarning: no pool, route or Gateway is described\n",
    )
    assert TestClient(app(Subject(LLAMA))).get("/readyz").text == "ok\n"


def test_routes_are_shown_as_they_were_read():
    described = world(pool("llama"), routes=(route("r", rule(backends=to("llama"))),))
    found = get(TestClient(app(Subject(described))), "/debug/world")
    assert found["routes"][0]["rules"][0]["backends"][0]["name"] == "default/llama"


def test_before_anything_was_read_the_pages_say_so():
    client = TestClient(app(Subject()))
    assert client.get("/readyz").status_code == 503
    assert client.get("/readyz").text == "nothing yet\n"
    assert client.get("/healthz").status_code == 200
    assert client.get("/debug/world").status_code == 503
    assert get(client, "/debug/xds/snapshots") == {"snapshots": []}


def test_what_a_node_would_get_can_be_asked(client: TestClient):
    newest = get(client, "/debug/xds/simulate?id=e&version=1.40")
    older = get(client, "/debug/xds/simulate?id=e&version=1.37.2")
    assert newest["group"] == older["group"] == "default"
    assert newest["version"] != older["version"]
    assert any("sse usage" in note for note in older["notes"])
    assert client.get("/debug/xds/simulate?version=new").status_code == 400


def test_nodes_are_shown_with_their_state_and_by_name():
    subject = Subject(LLAMA)
    node = Node("team/envoy-1", "edge", {"gateway": "x"}, version=(1, 40, 0))
    stream = StreamStatus(
        id=1,
        node=node,
        group="default",
        peer="ipv4:127.0.0.1",
        identities=(),
        delta=True,
        type_url=None,
        opened_at=0.0,
        snapshot=subject.provider.snapshot(node),
        converged=True,
        phase="done",
        kept_clusters=(),
        state=State.SYNCED,
        types=(),
        log=(),
    )
    subject.connected = (NodeStatus(node, "default", State.SYNCED, (stream,)),)
    client = TestClient(app(subject))
    (listed,) = get(client, "/debug/xds/nodes")["nodes"]
    assert (listed["id"], listed["state"], listed["version"]) == (
        "team/envoy-1",
        "SYNCED",
        "1.40.0",
    )
    assert listed["problem"] == ""
    assert "log" not in listed["streams"][0]
    one = get(client, "/debug/xds/nodes/team/envoy-1")
    assert one["streams"][0]["log"] == []
    assert one["streams"][0]["protocol"] == "delta"


def test_metrics_are_those_of_this_server(client: TestClient):
    assert "things_total 3.0" in client.get("/metrics").text


def test_secrets_are_never_shown():
    from envoy_data_plane.envoy.config.core.v3 import DataSource
    from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
        Secret,
        TlsCertificate,
    )

    key = DataSource(inline_string="-----BEGIN PRIVATE KEY-----")
    secret = Secret(name="cert", tls_certificate=TlsCertificate(private_key=key))
    shown = as_json(Resource(SECRET, "cert", bytes(secret)))
    assert "PRIVATE" not in str(shown)
    certificate = TlsCertificate(private_key=key, certificate_chain=DataSource(inline_string="C"))
    url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.TlsCertificate"
    nested = message_json(url, bytes(certificate))
    assert nested == {
        "certificate_chain": {"inline_string": "C"},
        "private_key": {"inline_string": "[redacted]"},
    }, "in the shape of Envoy's own dump, so that the two can be compared"


def test_an_assignment_with_more_than_ours_is_shown_whole():
    from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress
    from envoy_data_plane.envoy.config.endpoint.v3 import (
        ClusterLoadAssignment,
        Endpoint,
        LbEndpoint,
        LocalityLbEndpoints,
    )

    address = SocketAddress(address="10.0.0.1", port_value=1, resolver_name="special")
    host = LbEndpoint(endpoint=Endpoint(address=Address(socket_address=address)))
    theirs = ClusterLoadAssignment(
        cluster_name="x", endpoints=[LocalityLbEndpoints(lb_endpoints=[host])]
    )
    shown: Any = as_json(Resource(ENDPOINT, "x", bytes(theirs)))
    (one,) = shown["endpoints"][0]["lb_endpoints"]
    assert one["endpoint"]["address"]["socket_address"]["resolver_name"] == "special"


def test_a_message_of_an_unknown_type_is_shown_as_its_size():
    url = "type.googleapis.com/example.Unknown"
    assert message_json(url, b"\x00" * 5) == {"@type": url, "bytes": 5}


def test_a_static_configuration_has_its_routes_and_endpoints_inside():
    subject = Subject(LLAMA)
    snapshot = subject.provider.snapshot(Node("e"))
    assert snapshot is not None
    static: Any = render_static(snapshot)
    manager = static["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert "rds" not in manager
    assert manager["route_config"]["virtual_hosts"]
    by_name = {cluster["name"]: cluster for cluster in static["clusters"]}
    llama = by_name["pool/default/llama"]
    assert llama["type"] == "STATIC"
    assert len(llama["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2
