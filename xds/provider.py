"""Which Envoy gets which configuration: the provider of snapshots made from Worlds."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import structlog

from pools.attachment import AttachedWorld, Attacher
from pools.model import Gateway, World
from xds.publish import Published, publish
from xds.snapshot import Node, Snapshot
from xds.translate import ALL, DEFAULT_GATEWAY, Features, Translator, features_of
from xds.world_changes import describe_changes

log = structlog.get_logger(__name__)

GATEWAY_METADATA = "gateway"
"""Key of the node metadata that names the Gateway an Envoy serves, as ``namespace/name``."""
NO_GROUP = "none"
"""The group of nodes that no Gateway claims. They wait, and keep what they have."""

_NOTHING = Snapshot.of((), cause="its Gateway was deleted")

_MOST_VARIANTS = 16
"""Different sets of features that are kept up to date; a fleet has two or three."""


@dataclass(frozen=True, slots=True)
class FeatureVariant:
    """The configuration of one group for Envoys with one set of features."""

    group: str
    features: Features
    snapshot: Snapshot | None
    """The last good one; None: there never was one."""
    problem: str = ""
    """Why the World's newest state is not what these Envoys get; empty: it is."""


class WorldProvider:
    """Implements :class:`xds.snapshot.SnapshotProvider` over the newest World.

    Each Gateway is a group: a node says in its metadata, its cluster or its id which one it serves,
    and need not say so where there is only one. Without Gateways all nodes form one group, but for
    those of a cluster that name one: they wait for it. Who served a Gateway that was deleted from a
    cluster is given nothing to serve; of files, where it may just be edited, it keeps what it has.
    A configuration that cannot be made, or that would be inconsistent, is
    reported and the last good one stays.
    """

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._attacher = Attacher(translator.settings.own_pickers)
        self.world: World | None = None
        self.attached: AttachedWorld | None = None
        """The newest World, attached once for all who read it; None: it could not be."""
        self._gateways: dict[str, Gateway | None] = {}
        self._deleted: set[str] = set()
        """Gateways that were there before."""
        self._features: dict[Features, None] = {ALL: None}
        self._variants: dict[tuple[str, Features], FeatureVariant] = {}

    def offer(self, world: World) -> str:
        """Make this the World that snapshots are made from; returns what caused the change, empty
        if no snapshot is different from before."""
        cause = describe_changes(self.world, world)
        self.world, self.attached = world, None
        self._translator.next_world()
        before = self._gateways.keys()
        self._gateways = {str(gateway.name): gateway for gateway in world.gateways}
        if not world.gateways:
            self._gateways = {DEFAULT_GATEWAY: None}
        if world.of_cluster:
            self._deleted |= before
        self._deleted -= {*self._gateways, DEFAULT_GATEWAY}
        # Where Gateways come and go, nodes may belong to another group than before.
        changed = before != self._gateways.keys()
        for key in list(self._variants):
            if key[0] not in self._gateways:
                del self._variants[key]
        for group, gateway in self._gateways.items():
            for features in self._features:
                changed |= self._make(group, gateway, features, cause)
        return (cause or "changed") if changed else ""

    def group(self, node: Node) -> str:
        groups = self._gateways
        wanted = node.metadata.get(GATEWAY_METADATA)
        of_cluster = self.world is not None and self.world.of_cluster
        if DEFAULT_GATEWAY in groups and (wanted is None or not of_cluster):
            return DEFAULT_GATEWAY
        if wanted is not None:
            found = _matching(str(wanted), groups.keys() - {DEFAULT_GATEWAY})
            return found or _matching(str(wanted), self._deleted) or NO_GROUP
        claimed = _matching(node.cluster, groups) or _matching(node.id, groups)
        if claimed is None and len(groups) == 1:
            (claimed,) = groups
        return claimed or NO_GROUP

    def why_none(self, node: Node) -> str:
        """Why a node belongs to no group, and what to do; empty if it belongs to one."""
        if self.group(node) != NO_GROUP:
            return ""
        if self.world is None:
            return "nothing was read from the source yet"
        wanted = node.metadata.get(GATEWAY_METADATA)
        there = ", ".join(sorted(self._gateways.keys() - {DEFAULT_GATEWAY}))
        says = "names no Gateway" if wanted is None else f"names the Gateway {wanted!s}"
        return (
            f"the node {says} (node.metadata.{GATEWAY_METADATA} of its bootstrap), and the "
            f"Gateways are: {there or 'none'}"
        )

    def snapshot(self, node: Node) -> Snapshot | None:
        group = self.group(node)
        if group == NO_GROUP:
            return None
        if group in self._deleted:
            return _NOTHING
        features = features_of(node)
        if features not in self._features:
            self._remember(features)
        key = (group, features)
        if key not in self._variants:
            self._make(group, self._gateways[group], features, "first Envoy with these features")
        return self._variants[key].snapshot

    def preview(self, node: Node) -> Published:
        """What such a node would get. Unlike ``snapshot`` it leaves no trace."""
        group = self.group(node)
        if group == NO_GROUP or self.world is None:
            return Published()
        if group in self._deleted:
            return Published(_NOTHING)
        features = features_of(node)
        known = self._variants.get((group, features))
        if known is not None:
            return Published(known.snapshot, known.problem)
        translator = Translator(self._translator.settings)
        gateway = self._gateways[group]
        return publish(
            Published(),
            lambda: translator.translate(
                self._attach(), gateway, features, cause="made to be looked at"
            ),
        )

    def variants(self) -> Iterator[FeatureVariant]:
        """Every configuration that is kept up to date, by group."""
        yield from sorted(self._variants.values(), key=lambda v: (v.group, v.features != ALL))

    def _remember(self, features: Features) -> None:
        self._features[features] = None
        if len(self._features) > _MOST_VARIANTS:
            oldest = next(known for known in self._features if known != ALL)
            del self._features[oldest]
            for key in [key for key in self._variants if key[1] == oldest]:
                del self._variants[key]

    def _make(self, group: str, gateway: Gateway | None, features: Features, cause: str) -> bool:
        """Bring one variant up to date. True if its snapshot is another one than before."""
        key = (group, features)
        before = self._variants.get(key)
        last = Published(before.snapshot) if before else Published()
        published = publish(
            last,
            lambda: self._translator.translate(self._attach(), gateway, features, cause=cause),
        )
        if published.problem:
            log.error(
                "configuration cannot be published; the last one stays",
                group=group,
                why=published.problem,
                exc_info=published.error,
            )
        self._variants[key] = FeatureVariant(group, features, published.snapshot, published.problem)
        was, now = last.snapshot, published.snapshot
        return now is not None and (was is None or was.version != now.version)

    def _attach(self) -> AttachedWorld:
        if self.attached is None:
            assert self.world is not None
            self.attached = self._attacher.attach(self.world)
        return self.attached


def _matching(text: str, groups: Collection[str]) -> str | None:
    """The group of this name; a name without a namespace matches if only one Gateway has it."""
    if text in groups:
        return text
    found = [group for group in groups if group.rpartition("/")[2] == text]
    return found[0] if len(found) == 1 else None
