"""The directory ``manifests/`` of the repository, as it must be.

``python -m poolpilot.manifests.files manifests`` writes it anew after a template was changed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from poolpilot.manifests import envoy_gateway, plain_envoy
from poolpilot.manifests.envoy_gateway import Endpoints

DIRECTORIES = {
    "v1.2.1": ("1.2.1", Endpoints.SERVICE),
    "v1.5": ("1.5", Endpoints.SERVICE),
    "v1.8": ("1.8", Endpoints.SERVICE),
    "v1.9": ("1.9", Endpoints.SERVICE),
    "v1.8-eds": ("1.8", Endpoints.EDS),
    "v1.9-eds": ("1.9", Endpoints.EDS),
}
"""The variants of the quickstart. The versions in between take the files of the one before."""


def repository_files() -> dict[str, str]:
    """Texts by path, below ``manifests/``."""
    return {
        **{f"envoy-gateway/{path}": text for path, text in _envoy_gateway().items()},
        **{f"plain-envoy/{path}": text for path, text in _plain_envoy().items()},
    }


def write(directory: Path) -> None:
    """Replace what is in the directory."""
    for name in ("envoy-gateway", "plain-envoy"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for path, text in repository_files().items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _envoy_gateway() -> dict[str, str]:
    latest = envoy_gateway.Settings(envoy_gateway.Version.parse("1.9"))
    files = {"enable_patch_policy.yaml": envoy_gateway.enable_patch_policy()}
    for folder, name, simulated in (
        ("vllm", "vllm-lora-deployment.yaml", False),
        ("vllm-simulated", "vllm-simulated-deployment.yaml", True),
    ):
        files[f"{folder}/{name}"] = envoy_gateway.model_servers(latest, simulated=simulated)
        files[f"{folder}/kustomization.yaml"] = _kustomization([name])
    for folder, (version, endpoints) in DIRECTORIES.items():
        settings = envoy_gateway.Settings(envoy_gateway.Version.parse(version), endpoints=endpoints)
        documents = envoy_gateway.documents(settings)
        files |= {f"{folder}/{name}": text for name, text in documents.items()}
        files[f"{folder}/kustomization.yaml"] = _kustomization(list(documents))
        files[f"overlays/{folder}-simulated/kustomization.yaml"] = _kustomization(
            ["../../vllm-simulated", f"../../{folder}"]
        )
    return files


def _plain_envoy() -> dict[str, str]:
    settings = plain_envoy.Settings()
    documents = plain_envoy.documents(settings)
    sample = plain_envoy.sample(settings)
    simulated = plain_envoy.simulated_servers(settings)
    return {
        **{f"base/{name}": text for name, text in documents.items()},
        "base/kustomization.yaml": _kustomization(list(documents)),
        "overlays/sample/sample.yaml": sample,
        "overlays/sample/kustomization.yaml": _kustomization(["../../base", "sample.yaml"]),
        "overlays/simulated/vllm.yaml": simulated,
        "overlays/simulated/kustomization.yaml": _kustomization(["../sample", "vllm.yaml"]),
    }


def _kustomization(resources: list[str]) -> str:
    lines = "".join(f"- {one}\n" for one in resources)
    return f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{lines}"


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "manifests"))
