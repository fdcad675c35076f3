"""The files of ``manifests/``, and what ``poolpilot manifests`` prints for other names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from poolpilot.cli import app
from poolpilot.manifests import envoy_gateway, plain_envoy
from poolpilot.manifests.files import DIRECTORIES, repository_files
from pools.model import ObjectName
from xds.bootstrap import BootstrapSettings, bootstrap
from xds.translate.names import pool_cluster
from xds.translate.settings import SocketAddress

ROOT = Path(__file__).parents[2] / "manifests"
runner = CliRunner()
every_variant = pytest.mark.parametrize(
    ("directory", "version", "endpoints"),
    [(name, version, endpoints.value) for name, (version, endpoints) in DIRECTORIES.items()],
)


def printed(*arguments: str) -> str:
    result = runner.invoke(app, ["manifests", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def objects(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def of_directory(*names: str) -> list[dict[str, Any]]:
    """The objects that kustomize would apply."""
    found = []
    for name in names:
        folder = ROOT / name
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        for resource in kustomization["resources"]:
            path = folder / resource
            found += (
                of_directory(str(path.resolve().relative_to(ROOT.resolve())))
                if path.is_dir()
                else objects(path.read_text())
            )
    return found


def test_the_files_are_what_the_templates_give() -> None:
    expected = repository_files()
    found = {
        str(path.relative_to(ROOT)): path.read_text() for path in ROOT.rglob("*") if path.is_file()
    }
    assert found.keys() == expected.keys(), "run: python -m poolpilot.manifests.files manifests"
    for path, text in expected.items():
        assert found[path] == text, f"{path}: run: python -m poolpilot.manifests.files manifests"


@every_variant
def test_what_is_printed_for_the_usual_names_is_what_the_directory_holds(
    directory: str, version: str, endpoints: str
) -> None:
    text = printed("envoy-gateway", "--version", version, "--endpoints", endpoints)
    assert objects(text) == of_directory(f"envoy-gateway/{directory}")


def test_plain_envoy_is_printed_as_its_overlays_hold_it() -> None:
    assert objects(printed("plain-envoy", "--simulated")) == of_directory(
        "plain-envoy/overlays/simulated"
    )
    assert objects(printed("plain-envoy", "--no-sample")) == of_directory("plain-envoy/base")


def test_envoys_bootstrap_is_what_poolpilot_bootstrap_prints() -> None:
    [config] = [one for one in of_directory("plain-envoy/base") if one["kind"] == "ConfigMap"]
    command = runner.invoke(
        app,
        ["bootstrap", "--xds=poolpilot-xds.poolpilot.svc:18000",
         "--gateway=poolpilot/inference-gateway"],
    )  # fmt: skip
    assert config["data"]["envoy.yaml"] == command.output


@pytest.mark.parametrize("endpoints", ["service", "eds"])
def test_the_users_own_names_are_everywhere_and_the_quickstarts_nowhere(endpoints: str) -> None:
    text = printed(
        "envoy-gateway", "--version=1.8", f"--endpoints={endpoints}", "--namespace=models",
        "--gateway=edge", "--gateway-class=eg", "--listener=web", "--route=chat", "--pool=llama",
        "--app=llama-pods", "--port=9999", "--target-port=8080", "--picker=picker",
        "--image=registry/poolpilot:1",
    )  # fmt: skip
    for name in ("inference-gateway", "llm-gw", "llm-route", "vllm-llama2", "8081", "default/"):
        assert name not in text, name
    assert "models/edge/web" in text
    assert "httproute/models/chat/rule/0" in text
    assert "value: models/llama\n" in text


@every_variant
def test_patches_go_by_name_and_never_by_position(
    directory: str, version: str, endpoints: str
) -> None:
    for one in of_directory(f"envoy-gateway/{directory}"):
        for patch in one.get("spec", {}).get("jsonPatches", ()) if "spec" in one else ():
            operation = patch["operation"]
            where = operation.get("jsonPath", "") + "/" + operation.get("path", "")
            assert not re.search(r"/\d+(/|$)|\[\d+\]", where), where


def test_endpoints_of_our_own_are_asked_for_as_our_own_envoys_do() -> None:
    made = objects(printed("envoy-gateway", "--version=1.9", "--endpoints=eds", "--pool=llama"))
    [proxy] = [one for one in made if one["kind"] == "EnvoyProxy"]
    [addition] = proxy["spec"]["bootstrap"]["jsonPatches"]
    ours: dict[str, Any] = bootstrap(
        BootstrapSettings(xds=(SocketAddress("inference-gateway-xds.default.svc", 18000),))
    )
    [cluster] = ours["static_resources"]["clusters"]
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = "poolpilot-xds"
    assert addition["value"] == cluster

    [policy] = [one for one in made if one["kind"] == "EnvoyPatchPolicy"]
    [eds] = [
        patch["operation"]["value"]
        for patch in policy["spec"]["jsonPatches"]
        if patch["operation"]["path"] == "/eds_cluster_config"
    ]
    assert eds["service_name"] == pool_cluster(ObjectName("default", "llama"))
    asks = ours["dynamic_resources"]["ads_config"]
    asks["grpc_services"][0]["envoy_grpc"]["cluster_name"] = "poolpilot-xds"
    assert eds["eds_config"] == {"resource_api_version": "V3", "api_config_source": asks}


def test_endpoints_of_our_own_take_no_service_for_the_pods() -> None:
    made = objects(printed("envoy-gateway", "--version=1.9", "--endpoints=eds", "--pool=llama"))
    named = {(one["kind"], one["metadata"]["name"]) for one in made}
    assert ("Service", "llama") not in named
    assert {("Service", "inference-gateway-xds"), ("Backend", "llama")} <= named


def test_the_naming_scheme_decides_what_patches_are_for() -> None:
    def names(*options: str) -> set[str]:
        return {
            patch["name"]
            for one in objects(printed("envoy-gateway", "--port=9000", *options))
            if one["kind"] == "EnvoyPatchPolicy"
            for patch in one["spec"]["jsonPatches"]
        }

    old = "default/inference-gateway/llm-gw"
    assert old in names("--version=1.9")
    assert "tcp-9000" in names("--version=1.9", "--xds-name-scheme-v2")
    assert "tcp-9000" in names("--version=1.10")
    assert old in names("--version=1.10", "--xds-name-scheme-v1")


def test_each_version_gets_what_it_can_do() -> None:
    def kinds(version: str) -> set[str]:
        return {one["kind"] for one in objects(printed("envoy-gateway", "--version", version))}

    assert "original_destination_cluster" in printed("envoy-gateway", "--version=1.4.6")
    assert "BackendTrafficPolicy" not in kinds("1.2.1")
    assert "EnvoyPatchPolicy" not in kinds("1.5")
    assert "EnvoyPatchPolicy" not in kinds("v1.7.3")
    assert {"EnvoyPatchPolicy", "BackendTrafficPolicy"} <= kinds("1.8.0")
    assert "status_on_error" in printed("envoy-gateway", "--version=1.8")
    assert "statusOnError: 503" in printed("envoy-gateway", "--version=1.9")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("envoy-gateway", "--version=1.1"), "1.2.1 is the oldest"),
        (("envoy-gateway", "--version=1.2.0"), "1.2.1 is the oldest"),
        (("envoy-gateway", "--version=2.0"), "1.2.1 is the oldest"),
        (("envoy-gateway", "--version=latest"), "of the form"),
        (("envoy-gateway", "--version=1.9", "--pool=Llama"), "lower-case"),
        (("envoy-gateway", "--version=1.9", "--pool=a'b"), "lower-case"),
        (("envoy-gateway", "--version=1.4", "--xds-name-scheme-v2"), "1.5 and later"),
        (("envoy-gateway", "--version=1.7", "--endpoints=eds"), "1.8 or later"),
        (("envoy-gateway", "--version=1.9", "--endpoints=eds", f"--gateway={'g' * 60}"), "-xds"),
        (("envoy-gateway", "--version=1.9", "--image=a b"), "registry/name:tag"),
        (("plain-envoy", "--port=80"), "1024 or higher"),
        (("plain-envoy", "--port=70000"), "from 1 to 65535"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(arguments: tuple[str, ...], says: str) -> None:
    result = runner.invoke(app, ["manifests", *arguments], env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert says in " ".join(re.sub(r"[│╭╮╰╯─\n]", " ", result.output).split())


def workloads() -> list[dict[str, Any]]:
    return [
        one
        for one in (
            *of_directory("plain-envoy/overlays/simulated"),
            *of_directory(
                *(f"envoy-gateway/overlays/{directory}-simulated" for directory in DIRECTORIES)
            ),
        )
        if one["kind"] in ("Deployment", "StatefulSet")
    ]


def test_nothing_runs_as_root_or_may_become_it() -> None:
    for one in workloads():
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert "readinessProbe" in container


def test_a_pod_is_not_killed_before_its_drain_is_over() -> None:
    for one in workloads():
        pod = one["spec"]["template"]["spec"]
        [container] = pod["containers"]
        settings = [*container["args"], *(
            f"{env['name']}={env['value']}" for env in container.get("env", ()) if "value" in env
        )]  # fmt: skip
        drains = [
            float(text.rpartition("=")[2])
            for text in settings
            if re.match(r"--(drain-delay|grace)=|POOLPILOT_(DRAIN_DELAY|GRACE)=", text)
        ]
        assert sum(drains) < pod["terminationGracePeriodSeconds"], one["metadata"]["name"]


def test_every_command_line_and_variable_is_one_that_the_program_knows() -> None:
    for one in workloads():
        for container in one["spec"]["template"]["spec"]["containers"]:
            if "command" in container:
                continue  # Envoy; the tests with a real one say whether its flags are right
            known = printed_help([a for a in container["args"] if not a.startswith("-")][:2])
            for argument in container["args"]:
                assert not argument.startswith("--") or argument.partition("=")[0] in known
            for env in container.get("env", ()):
                assert env["name"] in known, env["name"]


def printed_help(command: list[str]) -> str:
    result = runner.invoke(app, [*command, "--help"], env={"COLUMNS": "400"})
    assert result.exit_code == 0
    return result.output


def test_the_picker_is_named_replica_by_replica_in_the_order_of_the_set() -> None:
    settings = plain_envoy.Settings(namespace="models", picker_replicas=3)
    assert settings.picker_targets == tuple(
        f"poolpilot-extproc-{n}.poolpilot-extproc.models.svc:9002" for n in range(3)
    )
    [xds] = [
        one
        for one in objects(plain_envoy.documents(settings)["xds.yaml"])
        if one["kind"] == "Deployment"
    ]
    [container] = xds["spec"]["template"]["spec"]["containers"]
    [value] = [env["value"] for env in container["env"] if env["name"] == "POOLPILOT_PICKER"]
    assert tuple(value.split()) == settings.picker_targets


def test_versions_are_read_with_and_without_a_v() -> None:
    parse = envoy_gateway.Version.parse
    assert parse("v1.9.1") == parse("1.9.1")
    assert parse("1.2") < parse("1.2.1") < parse("1.5") < parse("1.10")
