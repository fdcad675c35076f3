"""Who belongs to whom: what the Gateway API makes of a World's Gateways, routes and pools.

Two readers must never differ on this: the translation, which serves it, and the status that is
written back, which tells users what is served. Everything here is a pure function of the World.
"""

from __future__ import annotations

from pools.attachment.attacher import OWN_PICKERS, Attacher, attach
from pools.attachment.hostnames import ANY_HOST, covering, covers, shared_hostname
from pools.attachment.values import (
    AttachedGateway,
    AttachedListener,
    AttachedParent,
    AttachedPool,
    AttachedRoute,
    AttachedWorld,
    Attachments,
    Condition,
    ServiceRef,
    holds,
)

__all__ = [
    "ANY_HOST",
    "OWN_PICKERS",
    "AttachedGateway",
    "AttachedListener",
    "AttachedParent",
    "AttachedPool",
    "AttachedRoute",
    "AttachedWorld",
    "Attacher",
    "Attachments",
    "Condition",
    "ServiceRef",
    "attach",
    "covering",
    "covers",
    "holds",
    "shared_hostname",
]
