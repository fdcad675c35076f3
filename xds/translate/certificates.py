"""TLS: what listeners show to clients, and how pickers are asked.

Listeners' certificates come by SDS, so that a new one is taken over without a new listener, and no
connection ends for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from pools.model import ObjectName, TlsCertificate
from xds.resource import SECRET, Resource
from xds.translate.names import certificate_secret
from xds.translate.pack import any_of, resource, seconds
from xds.translate.settings import PickerTls

_ALPN = ["h2", "http/1.1"]
_FETCH_TIMEOUT = 5.0
"""Seconds that a listener waits for a certificate. Without it, it then serves its other names."""


def secret_of(certificate: TlsCertificate) -> Resource:
    name = certificate_secret(certificate.name)
    message = tls.Secret(
        name=name,
        tls_certificate=tls.TlsCertificate(
            certificate_chain=core.DataSource(inline_bytes=certificate.chain),
            private_key=core.DataSource(inline_bytes=certificate.key),
        ),
    )
    return resource(
        SECRET, name, message, origin=str(certificate.origin or f"Secret {certificate.name}")
    )


def downstream_tls(certificates: Iterable[ObjectName]) -> core.TransportSocket:
    """TLS 1.2 and later, HTTP/2 and HTTP/1.1. Of several certificates Envoy shows the one that fits
    the name that the client asks for."""
    return core.TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=any_of(
            tls.DownstreamTlsContext(
                common_tls_context=tls.CommonTlsContext(
                    tls_params=tls.TlsParameters(
                        tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2
                    ),
                    alpn_protocols=_ALPN,
                    tls_certificate_sds_secret_configs=[
                        tls.SdsSecretConfig(
                            name=certificate_secret(one),
                            sds_config=core.ConfigSource(
                                ads=core.AggregatedConfigSource(),
                                resource_api_version=core.ApiVersion.V3,
                                initial_fetch_timeout=seconds(_FETCH_TIMEOUT),
                            ),
                        )
                        for one in certificates
                    ],
                )
            )
        ),
    )


def unverified_tls() -> core.TransportSocket:
    """To a picker of somebody else: they sign their certificates themselves, so there is nothing
    to verify them by (the reference picker's default)."""
    return core.TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=any_of(
            tls.UpstreamTlsContext(common_tls_context=tls.CommonTlsContext(alpn_protocols=["h2"]))
        ),
    )


def picker_tls(settings: PickerTls, hosts: Sequence[str]) -> core.TransportSocket:
    """To our picker. ``hosts``: names of its replicas, any of which its certificate may have."""
    names = list(dict.fromkeys(host.removesuffix(".") for host in hosts))
    if settings.name is not None:
        names = [settings.name]
    common = tls.CommonTlsContext(
        alpn_protocols=["h2"],
        validation_context=tls.CertificateValidationContext(
            trusted_ca=core.DataSource(inline_string=settings.ca),
            match_typed_subject_alt_names=[
                tls.SubjectAltNameMatcher(
                    san_type=tls.SubjectAltNameMatcherSanType.DNS,
                    matcher=matcher.StringMatcher(exact=name),
                )
                for name in names
            ],
        ),
    )
    if settings.certificate is not None and settings.key is not None:
        common.tls_certificates = [
            tls.TlsCertificate(
                certificate_chain=core.DataSource(inline_string=settings.certificate),
                private_key=core.DataSource(inline_string=settings.key),
            )
        ]
    context = tls.UpstreamTlsContext(common_tls_context=common)
    if len(names) == 1:
        context.sni = names[0]
    elif names:
        context.auto_host_sni = True
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=any_of(context))
