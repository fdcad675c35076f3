"""TLS: who may come, as whom, and certificates that are renewed while the server runs."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import structlog
from cryptography import x509

from tests.xds.authority import Authority
from tests.xds.model import content
from tests.xds.wire_client import WireClient
from xds.config import Authorisation, TlsConfig, XdsServerConfig
from xds.grouped import GroupedSnapshots
from xds.resource import CLUSTER
from xds.server import XdsServer
from xds.services import CLIENT_STATUS
from xds.tls import TlsError, may_be
from xds.wire import status_pb2


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def started(tls: TlsConfig) -> XdsServer:
    snapshots = GroupedSnapshots(lambda node: node.cluster)
    snapshots.publish("test", [content(CLUSTER, "a")])
    server = XdsServer(snapshots, XdsServerConfig(port=0, tls=tls))
    await server.start()
    return server


def channel(
    server: XdsServer,
    authority: Authority,
    client: tuple[Path, Path] | None = None,
    name="xds.test",
) -> grpc.aio.Channel:
    chain, key = (client[0].read_bytes(), client[1].read_bytes()) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.path.read_bytes(), key, chain)
    return grpc.aio.secure_channel(
        f"127.0.0.1:{server.port}",
        credentials,
        options=[
            ("grpc.ssl_target_name_override", name),
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


async def ask(over: grpc.aio.Channel, node: str = "gw-1"):
    client = WireClient(over, node=node)
    await client.send(CLUSTER)
    return client


async def test_a_certificate_decides_which_node_a_client_may_be(authority):
    certificate, key = authority.issue("server", "xds", x509.DNSName("xds.test"))
    gateway = authority.issue("gw", "gw", x509.UniformResourceIdentifier("spiffe://test/gw"))
    other = authority.issue("other", "other", x509.DNSName("other.test"))
    rules = (Authorisation("spiffe://test/*", ("gw-*",)),)
    server = await started(TlsConfig(certificate, key, authority.path, rules))
    try:
        async with channel(server, authority, gateway) as over:
            good = await ask(over)
            assert len((await good.receive()).resources) == 1
            assert server.status().nodes[0].streams[0].identities[0] == "spiffe://test/gw"
            code, details = await (await ask(over, "somebody-else")).ending()
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert "somebody-else" in details
        async with channel(server, authority, other) as over:
            code, _details = await (await ask(over)).ending()
            assert code is grpc.StatusCode.PERMISSION_DENIED
    finally:
        await server.stop(0)


async def test_csds_shows_a_client_the_nodes_that_it_may_be_and_no_others(authority):
    certificate, key = authority.issue("server", "xds", x509.DNSName("xds.test"))
    one = authority.issue("one", "one", x509.DNSName("one.test"))
    two = authority.issue("two", "two", x509.DNSName("two.test"))
    rules = (Authorisation("one.test", ("one-*",)), Authorisation("two.test", ("two-*",)))
    server = await started(TlsConfig(certificate, key, authority.path, rules))
    try:
        async with (
            channel(server, authority, one) as of_one,
            channel(server, authority, two) as of_two,
        ):
            await (await ask(of_one, "one-1")).receive()
            await (await ask(of_two, "two-1")).receive()
            for over, seen in ((of_one, ["one-1"]), (of_two, ["two-1"])):
                fetch = over.unary_unary(
                    f"/{CLIENT_STATUS}/FetchClientStatus",
                    request_serializer=status_pb2.ClientStatusRequest.SerializeToString,
                    response_deserializer=status_pb2.ClientStatusResponse.FromString,
                )
                answer = await fetch(status_pb2.ClientStatusRequest())
                assert [config.node.id for config in answer.config] == seen
    finally:
        await server.stop(0)


async def test_a_client_without_a_certificate_does_not_get_in(authority):
    certificate, key = authority.issue("server", "xds", x509.DNSName("xds.test"))
    server = await started(TlsConfig(certificate, key, authority.path))
    try:
        async with channel(server, authority) as over:
            client = WireClient(over)
            assert (await client.ending())[0] is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop(0)


async def test_a_renewed_certificate_is_used_for_the_next_connection(authority):
    certificate, key = authority.issue("server", "xds", x509.DNSName("old.test"))
    server = await started(TlsConfig(certificate, key))
    try:
        async with channel(server, authority, name="old.test") as over:
            await (await ask(over)).receive()
        authority.issue("server", "xds", x509.DNSName("new.test"))
        async with channel(server, authority, name="new.test") as over:
            await (await ask(over)).receive()
    finally:
        await server.stop(0)


async def test_a_broken_renewal_leaves_the_old_certificate_in_force(authority):
    certificate, key = authority.issue("server", "xds", x509.DNSName("xds.test"))
    server = await started(TlsConfig(certificate, key))
    try:
        certificate.write_text("half a fi")
        async with channel(server, authority) as over:
            await (await ask(over)).receive()
    finally:
        await server.stop(0)


async def test_a_key_of_another_certificate_is_told_as_that_and_not_as_a_port_in_use(authority):
    certificate, _key = authority.issue("server", "xds", x509.DNSName("xds.test"))
    _other, key = authority.issue("other", "xds", x509.DNSName("xds.test"))
    with pytest.raises(TlsError, match=rf"{certificate} and {key} cannot be used"):
        await started(TlsConfig(certificate, key))
    broken = authority.directory / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nhalf\n-----END CERTIFICATE-----\n")
    with pytest.raises(TlsError, match=r"broken\.pem"):
        await started(TlsConfig(certificate, certificate.with_suffix(".key"), broken))


async def test_a_key_without_its_certificate_is_not_said_to_be_in_use(authority):
    """Files are renewed one after the other."""
    certificate, key = authority.issue("server", "xds", x509.DNSName("old.test"))
    old = certificate.read_bytes()
    server = await started(TlsConfig(certificate, key))
    try:
        authority.issue("server", "xds", x509.DNSName("new.test"))
        new = certificate.read_bytes()
        certificate.write_bytes(old)
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                async with channel(server, authority, name="old.test") as over:
                    await (await ask(over)).receive()
        told = [one["event"] for one in logs if "certificate" in one["event"]]
        assert told == ["certificate not reloaded, the old one stays"]
        certificate.write_bytes(new)
        async with channel(server, authority, name="new.test") as over:
            await (await ask(over)).receive()
    finally:
        await server.stop(0)


async def test_a_missing_file_is_named(authority, tmp_path):
    certificate, _key = authority.issue("server", "xds", x509.DNSName("xds.test"))
    with pytest.raises(TlsError, match=r"nowhere\.key"):
        await started(TlsConfig(certificate, tmp_path / "nowhere.key"))


def test_authorising_clients_needs_an_authority(tmp_path):
    with pytest.raises(ValueError, match="client_ca"):
        TlsConfig(tmp_path / "c", tmp_path / "k", authorised=(Authorisation("*"),))


def test_an_identity_matches_whole_and_only_its_nodes():
    rules = [Authorisation("gw.example", ("a", "b-*"))]
    assert may_be("b-1", ["gw.example"], rules)
    assert not may_be("c", ["gw.example"], rules)
    assert not may_be("a", ["gw.example.evil"], rules)
