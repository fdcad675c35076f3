"""Our message subsets have Envoy's fields: same names, same numbers, same types."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from xds.protocol.message import Response
from xds.resource import CLUSTER, ENDPOINT, Resource
from xds.wire import discovery_pb2, endpoint_pb2, status_pb2
from xds.wire.codec import (
    decode_delta,
    decode_sotw,
    eds_names,
    encode_delta,
    encode_sotw,
    with_nonce,
)

ROOT = Path(__file__).parents[2]
MODULES = (discovery_pb2, endpoint_pb2, status_pb2)
HOMES = (
    "envoy.service.discovery.v3",
    "envoy.config.core.v3",
    "envoy.config.endpoint.v3",
    "envoy.config.cluster.v3",
    "envoy.type.v3",
    "envoy.type.matcher.v3",
    "envoy.admin.v3",
    "envoy.service.status.v3",
    "google.rpc",
)
WRAPPERS = {"google.protobuf.UInt32Value"}


def original(descriptor: Descriptor) -> type:
    """The message of envoy-data-plane with this name; nested names are joined there."""
    name = descriptor.full_name.removeprefix("poolpilot.wire.xds.").replace(".", "")
    for home in HOMES:
        found = getattr(importlib.import_module(f"envoy_data_plane.{home}"), name, None)
        if found is not None:
            return found
    raise AssertionError(f"envoy-data-plane has no {name}")


def messages(descriptors) -> list[Descriptor]:
    found = []
    for descriptor in descriptors:
        if not descriptor.GetOptions().map_entry:
            found += [descriptor, *messages(descriptor.nested_types)]
    return found


ALL = [d for m in MODULES for d in messages(m.DESCRIPTOR.message_types_by_name.values())]
KINDS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_MESSAGE: "message",
}


@pytest.mark.parametrize("descriptor", ALL, ids=lambda d: d.full_name.rpartition("xds.")[2])
def test_every_field_is_envoys(descriptor):
    theirs = original(descriptor).__dataclass_fields__
    for field in descriptor.fields:
        assert field.name in theirs, field.full_name
        meta = theirs[field.name].metadata["betterproto"]
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        assert meta.number == field.number, field.full_name
        assert meta.proto_type == ("map" if is_map else KINDS[field.type]), field.full_name
        assert bool(meta.group) == (field.containing_oneof is not None), field.full_name
        if not is_map:
            assert meta.repeated == field.is_repeated, field.full_name
        if field.message_type is not None and not is_map:
            named = str(theirs[field.name].type)
            short = field.message_type.full_name.rpartition("wire.xds.")[2].replace(".", "")
            if field.message_type.full_name in WRAPPERS:
                assert "int" in named
            elif not field.message_type.full_name.startswith("google.protobuf."):
                assert short in named, field.full_name


@pytest.mark.parametrize(
    ("ours", "home", "theirs", "prefix"),
    [
        (endpoint_pb2.HealthStatus, "envoy.config.core.v3", "HealthStatus", ""),
        (status_pb2.ConfigStatus, "envoy.service.status.v3", "ConfigStatus", "CONFIG_STATUS_"),
    ],
)
def test_enums_have_envoys_numbers(ours, home, theirs, prefix):
    module = importlib.import_module(f"envoy_data_plane.{home}")
    original_values = {v.name: v.value for v in getattr(module, theirs)}
    for name, value in ours.items():
        assert original_values[name.removeprefix(prefix)] == value


def test_generating_again_gives_the_same_files(tmp_path):
    protos = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "xds/wire").glob("*.proto"))
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--plugin={plugin}"),
            *(f"--python_out={tmp_path}", f"--mypy_out=quiet:{tmp_path}", *protos),
        ],
        cwd=ROOT,
        check=True,
    )
    generated = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*_pb2.py*"))
    assert len(generated) == 2 * len(protos)
    for path in generated:
        assert (tmp_path / path).read_text() == (ROOT / path).read_text(), path


def test_requests_are_read_as_envoy_writes_them():
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.service.discovery import v3 as discovery
    from envoy_data_plane.envoy.type import v3 as kinds
    from envoy_data_plane.google.protobuf import Struct
    from envoy_data_plane.google.rpc import Status

    node = core.Node(
        id="gw-1",
        cluster="edge",
        metadata=Struct.from_dict({"gateway": "default/gw"}),
        locality=core.Locality(region="eu", zone="eu-1"),
        user_agent_name="envoy",
        user_agent_build_version=core.BuildVersion(
            version=kinds.SemanticVersion(major_number=1, minor_number=40)
        ),
        extensions=[
            core.Extension(name="x", category="c"),
            core.Extension(name="y", disabled=True),
        ],
    )
    sotw = discovery.DiscoveryRequest(
        node=node,
        type_url=CLUSTER,
        resource_names=["a"],
        version_info="1",
        response_nonce="2",
        error_detail=Status(code=3, message="no"),
    )
    read = decode_sotw(bytes(sotw))
    assert (read.type_url, read.names, read.version, read.nonce) == (CLUSTER, ("a",), "1", "2")
    assert read.error is not None
    assert (read.error.code, read.error.message) == (3, "no")
    assert read.node is not None
    assert (read.node.id, read.node.cluster, read.node.locality) == ("gw-1", "edge", "eu/eu-1")
    assert (read.node.version, read.node.extensions) == ((1, 40, 0), {"x"})
    assert read.node.metadata == {"gateway": "default/gw"}
    delta = discovery.DeltaDiscoveryRequest(
        type_url=CLUSTER,
        resource_names_subscribe=["a"],
        resource_names_unsubscribe=["b"],
        initial_resource_versions={"c": "1"},
        response_nonce="2",
    )
    changed = decode_delta(bytes(delta))
    assert (changed.subscribe, changed.unsubscribe) == (("a",), ("b",))
    assert (changed.initial_versions, changed.nonce, changed.node) == ({"c": "1"}, "2", None)


def test_responses_are_written_as_envoy_reads_them():
    from envoy_data_plane.envoy.service.discovery import v3 as discovery

    resource = Resource(CLUSTER, "a", b"body")
    response = Response(CLUSTER, "7", "v1", (resource,), ("gone",))
    sotw = discovery.DiscoveryResponse.parse(with_nonce(encode_sotw(response, "us"), "7"))
    assert (sotw.version_info, sotw.type_url, sotw.nonce) == ("v1", CLUSTER, "7")
    assert (sotw.resources[0].type_url, sotw.resources[0].value) == (CLUSTER, b"body")
    assert sotw.control_plane.identifier == "us"
    delta = discovery.DeltaDiscoveryResponse.parse(with_nonce(encode_delta(response, "us"), "7"))
    assert (delta.system_version_info, delta.nonce) == ("v1", "7")
    assert delta.removed_resources == ["gone"]
    assert delta.resources[0].version == resource.version
    assert delta.resources[0].resource.value == b"body"


@pytest.mark.parametrize("decode", [decode_sotw, decode_delta])
def test_bytes_that_are_no_request_are_an_error(decode):
    with pytest.raises(ValueError, match="DiscoveryRequest"):
        decode(b"\xff\xff\xff")


def test_a_cluster_tells_which_assignment_it_waits_for():
    eds = endpoint_pb2.Cluster(name="a")
    assert list(eds_names(eds.SerializeToString())) == []
    eds.eds_cluster_config.SetInParent()
    assert list(eds_names(eds.SerializeToString())) == ["a"]
    eds.eds_cluster_config.service_name = "s"
    assert list(eds_names(eds.SerializeToString())) == ["s"]
    assert endpoint_pb2.ClusterLoadAssignment(cluster_name="a").cluster_name == "a"
    assert ENDPOINT.endswith("ClusterLoadAssignment")
