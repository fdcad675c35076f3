"""gRPC reflection for Envoy's services, so that grpcurl and friends can speak to this server.

The messages here live in a package of our own. For reflection they are described once more under
the names that the services' real methods have.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import any_pb2, duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from xds.services import CLIENT_STATUS, SERVICES
from xds.wire import discovery_pb2, status_pb2

_OURS = ".poolpilot.wire.xds."
_THEIRS = ".envoy.service.discovery.v3."
"""One package for all messages is enough for a client that only needs their shape."""


def descriptors() -> DescriptorPool:
    """Envoy's discovery services and their messages, under Envoy's names."""
    pool = DescriptorPool()
    for module in (
        any_pb2,
        duration_pb2,
        struct_pb2,
        timestamp_pb2,
        wrappers_pb2,
        health_pb2,
        reflection_pb2,
    ):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    messages = FileDescriptorProto(
        name="poolpilot/reflection/messages.proto",
        package=_THEIRS.strip("."),
        syntax="proto3",
        dependency=[
            module.DESCRIPTOR.name for module in (any_pb2, duration_pb2, struct_pb2, timestamp_pb2)
        ],
    )
    for module in (discovery_pb2, status_pb2):
        source = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        messages.message_type.extend(source.message_type)
        messages.enum_type.extend(source.enum_type)
    for message in messages.message_type:
        _rename(message)
    pool.Add(messages)
    for name, methods in _methods().items():
        package, _, service = name.rpartition(".")
        file = FileDescriptorProto(
            name=f"poolpilot/reflection/{service}.proto",
            package=package,
            syntax="proto3",
            dependency=[messages.name],
        )
        described = file.service.add(name=service)
        for method, request, response, streaming in methods:
            described.method.add(
                name=method,
                input_type=_THEIRS + request,
                output_type=_THEIRS + response,
                client_streaming=streaming,
                server_streaming=streaming,
            )
        pool.Add(file)
    return pool


def add(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Let the server tell about these services, and about reflection itself."""
    names = [*services, reflection.SERVICE_NAME]
    # Documented, though the module does not list it.
    servicer = reflection.aio.ReflectionServicer(  # type: ignore[attr-defined]
        names, pool=descriptors()
    )
    add_ServerReflectionServicer_to_server(servicer, server)


def _methods() -> dict[str, list[tuple[str, str, str, bool]]]:
    found: dict[str, list[tuple[str, str, str, bool]]] = {}
    for service in SERVICES:
        methods = found.setdefault(service.name, [])
        if service.sotw is not None:
            methods.append((service.sotw, "DiscoveryRequest", "DiscoveryResponse", True))
        methods.append((service.delta, "DeltaDiscoveryRequest", "DeltaDiscoveryResponse", True))
    found[CLIENT_STATUS] = [
        ("StreamClientStatus", "ClientStatusRequest", "ClientStatusResponse", True),
        ("FetchClientStatus", "ClientStatusRequest", "ClientStatusResponse", False),
    ]
    return found


def _rename(message: DescriptorProto) -> None:
    for field in message.field:
        if field.type_name.startswith(_OURS):
            field.type_name = _THEIRS + field.type_name.removeprefix(_OURS)
    for nested in message.nested_type:
        _rename(nested)
