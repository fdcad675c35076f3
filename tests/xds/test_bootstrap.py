"""The configuration that Envoy starts with."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from xds.bootstrap import (
    BootstrapSettings,
    TlsFiles,
    active_listeners,
    bootstrap,
    bootstrap_yaml,
)
from xds.translate import Pipe, SocketAddress


def xds_cluster(settings: BootstrapSettings) -> dict[str, Any]:
    (cluster,) = bootstrap(settings)["static_resources"]["clusters"]
    return cluster


@pytest.mark.parametrize(("delta", "api"), [(True, "DELTA_GRPC"), (False, "GRPC")])
def test_everything_comes_over_one_stream_of_the_chosen_kind(delta: bool, api: str):
    resources = bootstrap(BootstrapSettings(delta=delta))["dynamic_resources"]
    assert resources["ads_config"]["api_type"] == api
    assert resources["ads_config"]["set_node_on_first_message_only"] is True
    assert resources["cds_config"] == resources["lds_config"]
    assert "ads" in resources["cds_config"]


def test_an_envoy_says_which_gateway_it_serves():
    node = bootstrap(BootstrapSettings(node_id="e-1", gateway="prod/edge"))["node"]
    assert node == {"id": "e-1", "cluster": "poolpilot", "metadata": {"gateway": "prod/edge"}}
    assert "metadata" not in bootstrap()["node"]


def test_the_server_is_found_by_address_name_or_socket():
    assert xds_cluster(BootstrapSettings())["type"] == "STATIC"
    assert xds_cluster(BootstrapSettings(xds=(SocketAddress("xds", 18000),)))["type"] == (
        "STRICT_DNS"
    )
    by_socket = xds_cluster(BootstrapSettings(xds=(Pipe("/run/xds.sock"),)))
    (host,) = by_socket["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert host["endpoint"]["address"] == {"pipe": {"path": "/run/xds.sock"}}


def test_the_admin_interface_is_on_loopback_unless_told_otherwise():
    assert bootstrap()["admin"]["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": 19000,
    }


def test_with_tls_envoy_checks_the_server_and_shows_its_certificate():
    files = TlsFiles("/ca.pem", "/cert.pem", "/key.pem", "xds.example")
    socket = xds_cluster(BootstrapSettings(tls=files))["transport_socket"]["typed_config"]
    common = socket["common_tls_context"]
    assert socket["sni"] == "xds.example"
    assert common["validation_context"]["trusted_ca"] == {"filename": "/ca.pem"}
    assert common["tls_certificates"][0]["private_key"] == {"filename": "/key.pem"}
    assert common["alpn_protocols"] == ["h2"]


def test_a_certificate_without_its_key_is_refused():
    with pytest.raises(ValueError, match="key"):
        TlsFiles("/ca.pem", certificate="/cert.pem")


def test_what_is_printed_is_what_is_meant():
    settings = BootstrapSettings(gateway="a/b", delta=False)
    assert yaml.safe_load(bootstrap_yaml(settings)) == bootstrap(settings)


def test_an_envoy_is_serving_when_it_has_active_listeners():
    stats = {"stats": [{"name": "listener_manager.total_listeners_active", "value": 2}]}
    assert active_listeners(json.dumps(stats)) == 2
    assert active_listeners('{"stats": []}') == 0
    assert active_listeners("{}") == 0
