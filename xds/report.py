"""From the live state of streams and groups to the values of :mod:`xds.status`."""

from __future__ import annotations

from collections.abc import Iterable

from xds.group import Group
from xds.protocol.rollout import Rollout
from xds.protocol.view import EMPTY
from xds.protocol.watch import Answered, Watch
from xds.session import Session
from xds.status import (
    Delivery,
    ErrorStatus,
    GroupStatus,
    NodeStatus,
    RejectedResource,
    State,
    StreamStatus,
    TypeStatus,
    XdsStatus,
    severity,
    worst,
)


def status(
    sessions: Iterable[Session],
    groups: Iterable[Group],
    *,
    identifier: str,
    started_at: float,
    epoch: float,
    refused_streams: int,
) -> XdsStatus:
    """``epoch`` turns the server's clock into seconds since the epoch."""
    by_node: dict[str, list[StreamStatus]] = {}
    for session in sessions:
        described = _stream(session, epoch)
        if described is not None:
            by_node.setdefault(described.node.id, []).append(described)
    nodes = [
        NodeStatus(
            streams[-1].node,
            streams[-1].group,
            worst(stream.state for stream in streams),
            tuple(streams),
        )
        for streams in by_node.values()
    ]
    nodes.sort(key=lambda node: (severity(node.state), node.node.id))
    return XdsStatus(
        identifier=identifier,
        started_at=started_at,
        nodes=tuple(nodes),
        groups=tuple(GroupStatus(g.name, g.nodes, g.problem, g.history(epoch)) for g in groups),
        refused_streams=refused_streams,
    )


def _stream(session: Session, epoch: float) -> StreamStatus | None:
    stream, connection = session.stream, session.connection
    if connection is None:
        return None
    types = tuple(_type(watch, stream.rollout, epoch) for watch in stream.watches.values())
    return StreamStatus(
        id=session.id,
        node=connection.node,
        group=connection.group.name,
        peer=session.peer,
        identities=session.identities,
        delta=stream.delta,
        type_url=stream.type_url,
        opened_at=session.opened_at + epoch,
        snapshot=stream.target.snapshot if stream.target is not None else None,
        converged=stream.converged,
        phase=stream.rollout.phase.value,
        kept_clusters=tuple(sorted(stream.rollout.kept)),
        state=worst(described.state for described in types),
        types=types,
        log=tuple(session.recorder.exchanges),
    )


def _type(watch: Watch, rollout: Rollout, epoch: float) -> TypeStatus:
    view = watch.view or EMPTY
    subscription = watch.subscription
    error = watch.error
    return TypeStatus(
        type_url=watch.type_url,
        state=_state(watch),
        names=tuple(sorted(subscription.names)),
        wildcard=subscription.wildcard,
        legacy_wildcard=subscription.legacy,
        wanted_version=view.version,
        sent=_delivery(watch.sent, epoch),
        acked=_delivery(watch.acked, epoch),
        pending_nonce=watch.pending.response.nonce if watch.pending is not None else "",
        error=(
            ErrorStatus(
                error.message,
                error.code,
                error.version,
                error.nonce,
                error.at + epoch,
                error.culprits,
            )
            if error is not None
            else None
        ),
        rejected=tuple(
            RejectedResource(
                name,
                rejection.version,
                rejection.message,
                rejection.at + epoch,
                view.resources[name].origin if name in view.resources else "",
            )
            for name, rejection in sorted(watch.quarantine.rejected.items())
        ),
        held={
            name: cluster
            for (type_url, name), cluster in rollout.held.items()
            if type_url == watch.type_url
        },
        responses=watch.counters.sent,
        acks=watch.counters.acked,
        nacks=watch.counters.nacked,
        stale_requests=watch.counters.stale,
        bytes_sent=watch.counters.bytes_sent,
        wanted=(
            view.resources
            if subscription.wildcard
            else {n: r for n, r in view.resources.items() if subscription.covers(n)}
        ),
        has=dict(watch.have),
    )


def _state(watch: Watch) -> State:
    if watch.error is not None:
        return State.ERROR
    if watch.sent is None and watch.acked is None:
        return State.NOT_SENT
    return State.SYNCED if watch.settled else State.STALE


def _delivery(answered: Answered | None, epoch: float) -> Delivery | None:
    if answered is None:
        return None
    return Delivery(answered.version, answered.nonce, answered.at + epoch)
