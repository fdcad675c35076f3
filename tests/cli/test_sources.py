"""Options that say where pools are described."""

from pathlib import Path

import pytest
import typer

from poolpilot.sources import source
from pools.files import FilesSource
from pools.kubernetes import KubernetesSource


def test_a_directory_is_read_as_files(tmp_path: Path) -> None:
    assert isinstance(source(tmp_path, False, None, None, [])(), FilesSource)


def test_kubernetes_is_watched_where_it_is_asked_for(tmp_path: Path) -> None:
    assert isinstance(source(None, True, tmp_path / "config", "prod", ["a"])(), KubernetesSource)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((None, False, None, None, []), "give --manifests DIRECTORY, or --kubernetes"),
        ((Path("pools"), True, None, None, []), "not both"),
        ((Path("pools"), False, None, None, ["a"]), "only goes with --kubernetes"),
        ((Path("pools"), False, Path("config"), None, []), "only goes with --kubernetes"),
        ((None, True, None, None, ["A/b"]), "is not a namespace"),
    ],
)
def test_options_that_do_not_go_together_are_explained(
    arguments: tuple[Path | None, bool, Path | None, str | None, list[str]], says: str
) -> None:
    with pytest.raises(typer.BadParameter, match=says):
        source(*arguments)


def test_files_may_name_local_endpoints_anyway() -> None:
    with pytest.raises(typer.BadParameter, match="only goes with --kubernetes"):
        source(Path("pools"), False, None, None, [], local_endpoints=True)
