"""Who answers for a Service, by its EndpointSlices."""

import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from pools.kubernetes.endpoint_slice import read_endpoint_slice
from pools.manifests import read_object, read_text
from pools.model import EndpointSlice, ObjectName, Service, ServicePort
from pools.services import with_addresses

WEB = ObjectName("default", "web")
SERVICE = Service(WEB, (ServicePort(80, "http"), ServicePort(81, "admin")))


def slice_of(name: str, *ready: str, ending: tuple[str, ...] = (), **ports: int) -> EndpointSlice:
    return EndpointSlice(ObjectName("default", name), WEB, ready, ending, tuple(ports.items()))


def addresses(*slices: EndpointSlice, port: int = 80) -> list[str]:
    found = with_addresses(SERVICE, slices).port(port)
    assert found is not None
    return [f"{address}:{number}" for address, number in found.addresses]


def test_ports_are_joined_by_name_over_all_slices() -> None:
    slices = (
        slice_of("a", "10.0.0.2", http=8080, admin=9000),
        slice_of("b", "10.0.0.1", http=8081),
        slice_of("c", "10.0.0.9", metrics=9100),
    )
    assert addresses(*slices) == ["10.0.0.1:8081", "10.0.0.2:8080"]
    assert addresses(*slices, port=81) == ["10.0.0.2:9000"]


def test_an_address_in_two_slices_counts_once() -> None:
    # For a moment, while Kubernetes moves it from one to the other.
    assert addresses(slice_of("a", "10.0.0.1", http=1), slice_of("b", "10.0.0.1", http=1)) == [
        "10.0.0.1:1"
    ]


def test_those_that_end_are_asked_only_where_nobody_is_ready() -> None:
    ending = slice_of("a", ending=("10.0.0.9",), http=8080)
    assert addresses(ending) == ["10.0.0.9:8080"]
    assert addresses(ending, slice_of("b", "10.0.0.1", http=8080)) == ["10.0.0.1:8080"]


def test_ipv6_counts_where_there_is_no_ipv4() -> None:
    six = slice_of("six", "fd00::1", http=8080)
    assert addresses(six) == ["fd00::1:8080"]
    assert addresses(six, slice_of("four", "10.0.0.1", http=8080)) == ["10.0.0.1:8080"]


def test_a_service_without_slices_has_ports_and_nobody_behind_them() -> None:
    assert [port.addresses for port in with_addresses(SERVICE, ()).ports] == [(), ()]


def read(text: str) -> object:
    [manifest] = read_text(text, "f.yaml").manifests
    assert manifest.problems == ()
    return manifest.object


def test_of_a_service_only_what_decides_is_read() -> None:
    service = read(
        """
        apiVersion: v1
        kind: Service
        metadata: {name: web}
        spec:
          clusterIP: None
          ipFamilies: [IPv4]
          selector: {app: web}
          ports:
          - {name: h2c, port: 80, targetPort: http, appProtocol: kubernetes.io/h2c, nodePort: 30080}
          - {name: dns, port: 80, protocol: UDP}
        """
    )
    assert isinstance(service, Service)
    assert service.ports == (ServicePort(80, "h2c", "kubernetes.io/h2c"),)
    elsewhere = read(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
        "spec: {type: ExternalName, externalName: example.com}\n"
    )
    assert isinstance(elsewhere, Service)
    assert (elsewhere.external, elsewhere.ports) == (True, ())


maybe = st.one_of(st.none(), st.booleans())
said = st.fixed_dictionaries({}, optional={"ready": maybe, "serving": maybe, "terminating": maybe})
hosts = st.sampled_from(["10.0.0.1", "fd00::1", "host.example.com"])
endpoints = st.fixed_dictionaries(
    {"addresses": st.lists(hosts, min_size=1, max_size=3)},
    optional={"conditions": said, "nodeName": st.just("node-1"), "zone": st.just("a")},
)
ports = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from([None, "", "http"]),
        "port": st.sampled_from([None, 1, 65535]),
        "protocol": st.sampled_from([None, "TCP", "UDP"]),
    },
)
slices = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"name": st.just("web-1"), "namespace": st.just("default")},
            optional={"labels": st.sampled_from([{}, {"kubernetes.io/service-name": "web"}])},
        )
    },
    optional={
        "endpoints": st.one_of(st.none(), st.lists(endpoints, max_size=4)),
        "ports": st.one_of(st.none(), st.lists(ports, max_size=3)),
        "addressType": st.sampled_from(["IPv4", "IPv6", "FQDN"]),
    },
)


@given(document=slices)
def test_a_slice_reads_the_same_from_a_file_and_from_an_api_server(document: Any) -> None:
    whole = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", **document}
    manifest = read_object(whole, "kubernetes")
    assert manifest is not None
    assert manifest.problems == ()
    quick, _ = read_endpoint_slice(json.dumps(document).encode(), "kubernetes")
    slow = manifest.object
    assert isinstance(slow, EndpointSlice)
    assert [getattr(quick, one) for one in ("name", "service", "ready", "ending", "ports")] == [
        getattr(slow, one) for one in ("name", "service", "ready", "ending", "ports")
    ]


def test_a_broken_slice_in_a_file_names_the_field() -> None:
    text = yaml.safe_dump(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "web-1"},
            "endpoints": [{"addresses": []}],
            "ports": [{"port": "http"}],
        }
    )
    [manifest] = read_text(text, "f.yaml").manifests
    assert [problem.field for problem in manifest.problems] == [
        "endpoints[0].addresses",
        "ports[0].port",
    ]
