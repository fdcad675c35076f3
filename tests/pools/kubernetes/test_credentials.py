"""How the API server is found and convinced."""

import asyncio
from pathlib import Path

import certifi
import pytest
import yaml

from pools.kubernetes.credentials import Credentials, CredentialsError
from tests.pools.kubernetes.test_source import kubeconfig


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any configuration."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A container with a service account. Returns the file of its token."""
    token = tmp_path / "token"
    token.write_text("first\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    loader = "kubernetes.config.incluster_config"
    monkeypatch.setattr(f"{loader}.SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(f"{loader}.SERVICE_CERT_FILENAME", certifi.where())
    return token


async def test_in_a_container_the_service_account_is_used_and_its_token_read_again(
    account: Path,
) -> None:
    credentials = Credentials()
    access = await credentials.access()
    assert access.url == "https://[fd00::1]:443"
    assert {key.lower(): value for key, value in access.headers.items()} == {
        "authorization": "bearer first"
    }
    await asyncio.to_thread(account.write_text, "second")
    credentials.forget()
    assert list((await credentials.access()).headers.values()) == ["bearer second"]


async def test_a_kubeconfig_that_is_named_wins_over_the_service_account(
    account: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = kubeconfig(tmp_path / "named", "https://named:6443/")
    assert (await Credentials(named).access()).url == "https://named:6443"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "env", "https://env")))
    assert (await Credentials().access()).url == "https://env"


async def test_the_kubeconfig_of_the_home_directory_is_the_last_resort(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube" / "config", "https://home")
    assert (await Credentials().access()).url == "https://home"


async def test_the_name_in_the_servers_certificate_and_a_proxy_are_respected(
    tmp_path: Path,
) -> None:
    path = kubeconfig(tmp_path / "config", "https://10.0.0.1")
    document = yaml.safe_load(path.read_text())
    document["clusters"][0]["cluster"] |= {
        "tls-server-name": "kubernetes",
        "proxy-url": "http://proxy:3128",
    }
    path.write_text(yaml.safe_dump(document))
    access = await Credentials(path).access()
    assert (access.server_name, access.proxy) == ("kubernetes", "http://proxy:3128")


async def test_a_kubeconfig_that_is_no_yaml_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("{")
    with pytest.raises(CredentialsError, match=f"kubeconfig {path} cannot be used"):
        await Credentials(path).access()


async def test_a_way_to_log_in_that_the_client_no_longer_has_is_told(tmp_path: Path) -> None:
    user = {"auth-provider": {"name": "gcp", "config": {}}}
    path = kubeconfig(tmp_path / "config", "https://10.0.0.1", user)
    with pytest.raises(CredentialsError, match=f"kubeconfig {path} cannot be used"):
        await Credentials(path).access()


async def test_without_anything_the_error_says_where_it_was_looked_for() -> None:
    with pytest.raises(CredentialsError, match=r"~/\.kube/config cannot be used"):
        await Credentials().access()
