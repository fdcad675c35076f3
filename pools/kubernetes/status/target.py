"""Objects of the API server that something is reported of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pools.model import Gateway, GatewayClass, HTTPRoute, InferencePool, ObjectName, Origin
from pools.well_known import GATEWAY_GROUP, INFERENCE_GROUP

KINDS: Mapping[str, tuple[str, str]] = {
    "GatewayClass": ("gatewayclasses", f"{GATEWAY_GROUP}/v1"),
    "Gateway": ("gateways", f"{GATEWAY_GROUP}/v1"),
    "HTTPRoute": ("httproutes", f"{GATEWAY_GROUP}/v1"),
    "InferencePool": ("inferencepools", f"{INFERENCE_GROUP}/v1"),
}
"""Plural name, and the API version of an object that does not say it."""


_PARENTS_FIELDS = {"v1": "parents", "v1alpha2": "parent"}


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One object."""

    kind: str
    api_version: str
    name: ObjectName

    @classmethod
    def of(cls, origin: Origin) -> Target:
        """Raises KeyError for kinds of which nothing is reported."""
        return cls(origin.kind, origin.api_version or KINDS[origin.kind][1], origin.name)

    @property
    def resource(self) -> str:
        """As roles name it, such as ``httproutes``."""
        return KINDS[self.kind][0]

    @property
    def group(self) -> str:
        return self.api_version.partition("/")[0]

    @property
    def path(self) -> str:
        return (
            f"{collection(self.api_version, self.resource, self.name.namespace)}/{self.name.name}"
        )

    @property
    def parents_field(self) -> str:
        """Where the status of a pool lists its Gateways; empty: nowhere."""
        return _PARENTS_FIELDS.get(self.api_version.rpartition("/")[2], "")

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def collection(api_version: str, resource: str, namespace: str | None = None) -> str:
    """Where the API server has the objects of a group's kind, in one namespace or in all."""
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{api_version}{within}/{resource}"


def of_cluster(
    values: Iterable[GatewayClass | Gateway | HTTPRoute | InferencePool],
) -> Iterator[tuple[Target, Origin]]:
    """Those that an API server has."""
    for value in values:
        if value.origin is not None and value.origin.uid:
            yield Target.of(value.origin), value.origin
