"""What Envoy's configuration and the endpoint picker agree on: the names that cross the wire.

The two servers never import each other, and a name that one of them spells otherwise fails only in
a running Envoy. So both import it from here. Names of the protocol are those of the Gateway API
Inference Extension's `endpoint picker protocol
<https://github.com/kubernetes-sigs/gateway-api-inference-extension/tree/main/docs/proposals/004-endpoint-picker-protocol>`_.
"""

from __future__ import annotations

from typing import Final

# Dynamic metadata.
LB_NAMESPACE: Final = "envoy.lb"
SUBSET_NAMESPACE: Final = "envoy.lb.subset_hint"
"""Restricts the pick to the endpoints under :data:`SUBSET_KEY`."""
SUBSET_KEY: Final = "x-gateway-destination-endpoint-subset"
OWN_NAMESPACE: Final = "poolpilot"
"""Of our own picker: :data:`PICK_KEY` names the decision, and comes back in the access log."""
PICK_KEY: Final = "pick"
USAGE_NAMESPACE: Final = "poolpilot.usage"
"""Token counts that Envoy read from the response: ``prompt_tokens``, ``completion_tokens``,
``cached_tokens`` (part of the prompt's), ``cache_read_tokens`` (cached too, but to be added to the
prompt's) and ``cache_creation_tokens`` (to be added as well: the Anthropic API leaves both out, and
Envoy cannot add)."""
PROMPT_TOKENS: Final = "prompt_tokens"
COMPLETION_TOKENS: Final = "completion_tokens"
CACHED_TOKENS: Final = "cached_tokens"
CACHE_READ_TOKENS: Final = "cache_read_tokens"
CACHE_CREATION_TOKENS: Final = "cache_creation_tokens"

# Headers.
DESTINATION: Final = "x-gateway-destination-endpoint"
"""Request header and ``envoy.lb`` key of the picked endpoints: ``ip:port``, best first, joined by
commas."""
SERVED: Final = "x-gateway-destination-endpoint-served"
"""``envoy.lb`` key of the endpoint that answered, ``ip:port``."""
POOL_HEADER: Final = "x-poolpilot-pool"
"""Request header with which a picker names the pool of a request whose route named none. Never
taken from clients."""
EXPLANATION_HEADER: Final = "x-poolpilot-explanation"
"""Request header in which the picker explains its pick; copied into the response."""
REQUEST_ID: Final = "x-request-id"
"""Ties an entry of the access log to an exchange that never had a pick."""

# gRPC.
POOL_METADATA: Final = "x-inference-pool"
"""Initial metadata by which Envoy's route tells the picker its pool: ``namespace/name``."""
