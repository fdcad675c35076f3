"""Pods as processes: ports, signals, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from sim.config import PodConfig
from sim.pod import Pod
from sim.server import serve_many


@contextlib.asynccontextmanager
async def process(*args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sim", *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def url(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    async with asyncio.timeout(30):
        line = (await child.stdout.readline()).decode()
    assert line.startswith("vllm-3 serves ")
    return line.split()[-1]


async def test_a_process_on_port_0_tells_its_port_and_ends_well_on_sigterm():
    async with process("--port", "0", "--name", "vllm-3") as child:
        base = await url(child)
        async with aiohttp.ClientSession() as http:
            body = {"prompt": "a", "max_tokens": 50, "stream": True}
            async with http.post(f"{base}/v1/completions", json=body) as response:
                child.send_signal(signal.SIGTERM)
                assert (await response.text()).endswith("data: [DONE]\n\n")
        async with asyncio.timeout(10):
            assert await child.wait() == 0


async def test_a_taken_port_is_said_in_one_line():
    async with Pod(PodConfig(port=0)) as pod, process("--port", str(pod.port)) as child:
        _, errors = await child.communicate()
        assert child.returncode == 1
    assert errors.decode().startswith(f"cannot listen on 127.0.0.1:{pod.port}: ")
    assert len(errors.splitlines()) == 1


async def test_an_impossible_setting_is_a_usage_error():
    async with process("--max-model-len", "999999") as child:
        _, errors = await child.communicate()
        assert child.returncode == 2
    assert b"raise kv_cache_tokens" in errors


async def test_many_pods_share_a_process_and_end_together():
    ready: asyncio.Future[list[Pod]] = asyncio.get_running_loop().create_future()
    configs = [PodConfig(port=0, name=f"vllm-{i}", time_scale=100) for i in range(3)]
    serving = asyncio.create_task(
        serve_many(configs, ready=lambda pods: ready.set_result(list(pods)))
    )
    async with asyncio.timeout(10):
        pods = await ready
    signed = []
    async with aiohttp.ClientSession() as http:
        for pod in pods:
            async with http.post(f"{pod.url}/v1/completions", json={"prompt": "a"}) as response:
                signed.append(response.headers["x-sim-pod"])
    assert signed == ["vllm-0", "vllm-1", "vllm-2"]
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await serving


async def test_when_one_port_is_taken_no_pod_is_left_behind():
    async with Pod(PodConfig(port=0)) as other:
        configs = [PodConfig(port=0, name="free"), PodConfig(port=other.port, name="taken")]
        with pytest.raises(OSError, match="in use"):
            await serve_many(configs)
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []
