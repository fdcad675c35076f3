"""Names that Kubernetes APIs fix, and those of ours that users write into manifests."""

from __future__ import annotations

from typing import Final

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
INFERENCE_GROUP: Final = "inference.networking.k8s.io"
INFERENCE_X_GROUP: Final = "inference.networking.x-k8s.io"
"""Of the inference extension's kinds that are not stable, and of InferencePool before v1."""
LLM_D_GROUP: Final = "llm-d.ai"
"""Took InferenceObjective and InferenceModelRewrite over."""
OWN_GROUP: Final = "poolpilot.dev"
POOL_GROUPS: Final = (INFERENCE_GROUP, INFERENCE_X_GROUP)
"""Those that have a kind InferencePool."""

CONTROLLER: Final = f"{OWN_GROUP}/gateway-controller"
"""What a GatewayClass names for its Gateways to be ours."""
OWN_PICKER: Final = "poolpilot-extproc"
"""The Service of our endpoint picker, in whatever namespace."""
PICKER_PORT: Final = 9002
"""Of a reference to an endpoint picker without a port (v1alpha2)."""
