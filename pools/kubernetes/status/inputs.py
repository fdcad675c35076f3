"""All of a World that statuses and Events tell of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pools.attachment import AttachedWorld, Attachments
from pools.model import Gateway, GatewayClass, HTTPRoute, InferencePool, ObjectName, Problem


@dataclass(frozen=True, slots=True)
class StatusInputs:
    """Statuses and Events are made of this and nothing else: of equal inputs, they are the same."""

    gateway_classes: tuple[GatewayClass, ...]
    gateways: tuple[Gateway, ...]
    routes: tuple[HTTPRoute, ...]
    pools: Mapping[ObjectName, InferencePool]
    problems: tuple[Problem, ...]
    attachments: Attachments

    @classmethod
    def of(cls, attached: AttachedWorld) -> StatusInputs:
        world = attached.world
        return cls(
            world.gateway_classes,
            world.gateways,
            world.routes,
            world.pools,
            world.problems,
            attached.attachments,
        )
