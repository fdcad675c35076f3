"""An endpoint picker as the inference extension's own, to stand in for those that are not ours.

It serves TLS with a certificate that it signs itself, speaks full duplex in both directions, obeys
the header ``test-epp-endpoint-selection`` (``ip`` or ``ip:port``, with commas between), and tells
in a response header which endpoint Envoy says has served.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio

from e2e.tls import certificate
from extproc.wire import ext_proc_pb2 as pb

SELECTION = "test-epp-endpoint-selection"
DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-conformance-test-served-endpoint"
_METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


class ReferencePicker:
    """The picker of one pool. Its endpoints are ``ip:port``."""

    def __init__(self, endpoints: Sequence[str], *, tls: bool = True) -> None:
        self.endpoints = tuple(endpoints)
        self.asked = 0
        self._tls = tls
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int = 0) -> int:
        """Serve, and return the port."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = grpc.stream_stream_rpc_method_handler(
            self._process,
            request_deserializer=pb.ProcessingRequest.FromString,
            response_serializer=pb.ProcessingResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers((_Only(handler),))
        address = f"{host}:{port}"
        if self._tls:
            own = certificate("picker", "picker")
            credentials = grpc.ssl_server_credentials([(own.key, own.chain)])
            bound = self._server.add_secure_port(address, credentials)
        else:
            bound = self._server.add_insecure_port(address)
        await self._server.start()
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def choose(self, selection: str) -> list[str]:
        wanted = [one.strip() for one in selection.split(",") if one.strip()]
        return [
            endpoint
            for endpoint in self.endpoints
            if not wanted or endpoint in wanted or endpoint.rpartition(":")[0] in wanted
        ]

    async def _process(
        self,
        requests: AsyncIterator[pb.ProcessingRequest],
        _context: grpc.aio.ServicerContext[pb.ProcessingRequest, pb.ProcessingResponse],
    ) -> AsyncIterator[pb.ProcessingResponse]:
        selection = ""
        body: list[bytes] = []
        async for request in requests:
            match request.WhichOneof("request"):
                case "request_headers":
                    selection = _header(request.request_headers, SELECTION)
                    if request.request_headers.end_of_stream:
                        yield self._picked(selection)
                case "request_body":
                    body.append(request.request_body.body)
                    if request.request_body.end_of_stream:
                        yield self._picked(selection)
                        yield _chunk("request_body", b"".join(body), end=True)
                case "response_headers":
                    yield _told(request)
                case "response_body":
                    part = request.response_body
                    yield _chunk("response_body", part.body, end=part.end_of_stream)
                case "response_trailers":
                    yield pb.ProcessingResponse(response_trailers=pb.TrailersResponse())

    def _picked(self, selection: str) -> pb.ProcessingResponse:
        candidates = self.choose(selection)
        self.asked += 1
        if not candidates:
            return pb.ProcessingResponse(
                immediate_response=pb.ImmediateResponse(status=pb.HttpStatus(code=503))
            )
        endpoint = candidates[self.asked % len(candidates)]
        answer = pb.ProcessingResponse(
            request_headers=pb.HeadersResponse(response=_setting(DESTINATION, endpoint))
        )
        answer.dynamic_metadata.update({"envoy.lb": {DESTINATION: endpoint}})
        return answer


def _told(request: pb.ProcessingRequest) -> pb.ProcessingResponse:
    known = request.metadata_context.filter_metadata
    key = f"{DESTINATION}-served"
    # To ask for what is not there would make it.
    told = "envoy.lb" in known and key in known["envoy.lb"]
    served = str(known["envoy.lb"][key]) if told else "nobody told"
    return pb.ProcessingResponse(
        response_headers=pb.HeadersResponse(response=_setting(SERVED, served))
    )


def _setting(name: str, value: str) -> pb.CommonResponse:
    header = pb.HeaderValue(key=name, raw_value=value.encode())
    return pb.CommonResponse(
        header_mutation=pb.HeaderMutation(
            set_headers=[
                pb.HeaderValueOption(
                    header=header,
                    append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
                )
            ]
        )
    )


def _chunk(kind: str, body: bytes, *, end: bool) -> pb.ProcessingResponse:
    mutation = pb.BodyMutation(
        streamed_response=pb.StreamedBodyResponse(body=body, end_of_stream=end)
    )
    answer = pb.BodyResponse(response=pb.CommonResponse(body_mutation=mutation))
    if kind == "request_body":
        return pb.ProcessingResponse(request_body=answer)
    return pb.ProcessingResponse(response_body=answer)


def _header(headers: pb.HttpHeaders, name: str) -> str:
    return next(
        (one.raw_value.decode() or one.value for one in headers.headers.headers if one.key == name),
        "",
    )


class _Only(grpc.GenericRpcHandler):
    def __init__(self, handler: grpc.RpcMethodHandler[object, object]) -> None:
        self._handler = handler

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[object, object] | None:
        return self._handler if handler_call_details.method == _METHOD else None


@contextlib.asynccontextmanager
async def running(picker: ReferencePicker, host: str) -> AsyncIterator[int]:
    port = await picker.start(host)
    try:
        yield port
    finally:
        await picker.stop()
