"""Two real vLLM servers behind our configuration on a real Envoy, for all tests here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from e2e.engines import install
from poolpilot.demo.ports import Ports
from poolpilot.demo.quickstart import endpoints
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy

SERVERS = ("vllm-0", "vllm-1")
START_LIMIT = 500.0
"""Seconds: a minute of CPU time for each."""
POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: tiny
spec:
  selector:
    matchLabels:
      app: tiny
  targetPorts:
  - number: 8000
  endpointPickerRef:
    name: extproc
    port:
      number: 9002
"""
EVENTS = {
    "enable_kv_cache_events": True,
    "publisher": "zmq",
    # Any free port; the server tells which.
    "endpoint": "tcp://*:0",
    "replay_endpoint": "tcp://*:0",
}
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_TARGET_DEVICE": "cpu",
}


def vllm(port: int) -> list[str]:
    """The command line of a server."""
    model = install.model()
    options = {
        "host": "127.0.0.1",
        "port": port,
        "max-model-len": 2048,
        "max-num-seqs": 8,
        "dtype": "bfloat16",
        "num-gpu-blocks-override": 128,
        "max-loras": 2,
        "max-lora-rank": 8,
        "kv-events-config": json.dumps(EVENTS),
    }
    return [
        *("nice", str(install.python().with_name("vllm")), "serve", str(model / "model")),
        *("--served-model-name", "tiny", "tiny-alias", "--enforce-eager", "--enable-lora"),
        *("--enable-prefix-caching", "--enable-prompt-tokens-details"),
        *(part for name, value in options.items() for part in (f"--{name}", str(value))),
        "--lora-modules",
        *(f"{one.name}={one}" for one in sorted((model / "adapters").iterdir())),
    ]


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not install.is_installed():
        pytest.skip("vLLM is not set up: make test-engines does it")
    stack = Stack(
        tmp_path_factory.mktemp("engines"),
        Ports.free(len(SERVERS)),
        SERVERS,
        find_envoy(),
        # The port is for servers that do not tell theirs: these do.
        extproc_options=["--kv-events-port=1"],
    )
    path = f"{install.python().parent}:/usr/bin:/bin"
    try:
        stack.write({"pool.yaml": POOL, "endpoints.yaml": endpoints(stack.placed(), "tiny")})
        for name, _, port in stack.placed():
            stack.children.start(name, vllm(port), {**ENVIRONMENT, "PATH": path})
        stack.start_xds()
        stack.start_extproc()
        stack.start_envoy()
        asyncio.run(stack.ready(START_LIMIT))
        yield stack
    finally:
        stack.stop()
