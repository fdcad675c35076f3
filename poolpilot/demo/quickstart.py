"""The manifests of the Gateway API inference extension's quickstart, for pods on this machine."""

from __future__ import annotations

from collections.abc import Sequence

NAMESPACE = "default"
POOL = "vllm-llama2-7b-pool"
BASE_MODEL = "meta-llama/Llama-2-7b-hf"
ADAPTER = "tweet-summary"
"""The model that the quickstart asks for."""
MODELS = (BASE_MODEL, ADAPTER, "sql-lora")
"""What the demo's load asks for."""

_POOL = f"""\
# The quickstart's pool. Edit these files while the demo runs: what you save takes effect.
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: {POOL}
spec:
  selector:
    matchLabels:
      app: {POOL}
  targetPorts:
  - number: 8000
  endpointPickerRef:
    name: inference-gateway-ext-proc
    port:
      number: 9002
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata:
  name: inferencemodel-sample
spec:
  modelName: {ADAPTER}
  criticality: Critical
  poolRef:
    name: {POOL}
"""


def manifests(pods: Sequence[tuple[str, str, int]]) -> dict[str, str]:
    """Manifest files by name; ``pods`` are (name, address, port)."""
    return {"pool.yaml": _POOL, "endpoints.yaml": endpoints(pods)}


def endpoints(pods: Sequence[tuple[str, str, int]], pool: str = POOL) -> str:
    """A PoolEndpoints manifest."""
    head = f"""\
# Where the pool's servers are. On Kubernetes the selector of the pool says it.
apiVersion: poolpilot.dev/v1alpha1
kind: PoolEndpoints
metadata:
  name: {pool}
spec:
  poolRef:
    name: {pool}
"""
    if not pods:
        return head + "  endpoints: []\n"
    entries = "".join(
        f"  - name: {name}\n    address: {address}\n    ports: [{port}]\n"
        for name, address, port in pods
    )
    return f"{head}  endpoints:\n{entries}"
