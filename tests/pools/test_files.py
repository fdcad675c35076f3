"""The files source on a real directory."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import structlog
import yaml

from pools.directory import Contents, list_directory
from pools.files import FilesSource, SourceError, read_once
from pools.manifests import Reading
from pools.model import ObjectName, Severity, World
from tests.certificates import END
from tests.pools.pairs import GATEWAY, good_pair

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
POOL = ObjectName("default", "vllm-llama2-7b-pool")
ENDPOINTS = (QUICKSTART / "endpoints.yaml").read_text()

Next = Callable[[], Awaitable[World]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    manifests = tmp_path / "manifests"
    shutil.copytree(QUICKSTART, manifests)
    return manifests


async def silent_watch(_: Path) -> AsyncIterator[object]:
    """A file system that signals nothing."""
    await asyncio.Event().wait()
    yield None


@contextlib.asynccontextmanager
async def following(source: FilesSource) -> AsyncIterator[Next]:
    worlds = source.worlds()
    try:
        yield lambda: asyncio.wait_for(anext(worlds), 20)
    finally:
        await worlds.aclose()  # type: ignore[attr-defined]  # an async generator


def ports(world: World) -> list[int]:
    return [endpoint.port for endpoint in world.endpoints_of(POOL)]


def replace(path: Path, text: str) -> None:
    """Write as careful editors do: a new file, renamed over the old one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


async def test_an_edit_takes_effect_and_names_its_problem(directory: Path) -> None:
    file = directory / "endpoints.yaml"
    async with following(FilesSource(directory, poll=60.0)) as next_world:
        first = await next_world()
        assert (first.revision, ports(first), first.problems) == (1, [8001, 8002, 8003], ())
        await until_watched(directory, next_world)
        replace(file, ENDPOINTS.replace("8003", "9003"))
        assert ports(await next_world()) == [8001, 8002, 9003]
        file.write_text(ENDPOINTS.replace("[8003]", "[80030]"))
        broken = await next_world()
        assert ports(broken) == [8001, 8002, 9003]
        assert [str(problem) for problem in broken.problems] == [
            "endpoints.yaml:18: PoolEndpoints default/vllm-llama2-7b spec.endpoints[2].ports[0]:"
            " must be a port number from 1 to 65535, not 80030"
            " (the last good version stays in effect)"
        ]
        file.write_text(ENDPOINTS)
        mended = await next_world()
        assert (ports(mended), mended.problems) == ([8001, 8002, 8003], ())


async def until_watched(directory: Path, next_world: Next) -> None:
    """The watch starts beside the first World: touch a file until a signal comes through."""
    probe = directory / "probe.yaml"
    waiting = asyncio.ensure_future(next_world())
    for attempt in range(1000):
        probe.write_text(f"no: kind {attempt}\n")
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        if done:
            break
    probe.unlink()
    await waiting
    await next_world()


async def test_a_certificate_that_expires_is_told_although_nothing_changes(
    directory: Path,
) -> None:
    times = [0.0]
    (directory / "secure.yaml").write_text(GATEWAY + "---\n" + yaml.safe_dump(good_pair().secret()))
    source = FilesSource(directory, poll=0.05, now=lambda: times[-1])
    async with following(source) as next_world:
        assert not (await next_world()).problems
        times.append(END.timestamp())
        assert ["expired" in one.message for one in (await next_world()).problems] == [True]


async def test_deleting_then_creating_a_file_loses_nothing(directory: Path) -> None:
    file = directory / "endpoints.yaml"
    async with following(FilesSource(directory, grace=30.0, poll=0.05)) as next_world:
        await next_world()
        file.unlink()
        gone = await next_world()
        assert ports(gone) == [8001, 8002, 8003]
        assert "which is gone" in gone.problems[0].message
        file.write_text(ENDPOINTS)
        back = await next_world()
        assert (ports(back), back.problems) == ([8001, 8002, 8003], ())


async def test_a_deleted_file_counts_after_the_grace_period(directory: Path) -> None:
    async with following(FilesSource(directory, grace=0.2, poll=60.0)) as next_world:
        await next_world()
        await until_watched(directory, next_world)
        (directory / "endpoints.yaml").unlink()
        assert ports(await next_world()) == [8001, 8002, 8003]
        left = await next_world()
        assert (ports(left), left.problems) == ([], ())
        assert POOL in left.pools


async def test_a_file_system_without_signals_is_polled(directory: Path) -> None:
    source = FilesSource(directory, watch=silent_watch, poll=0.05)
    async with following(source) as next_world:
        await next_world()
        (directory / "endpoints.yaml").write_text(ENDPOINTS.replace("8003", "9003"))
        assert ports(await next_world()) == [8001, 8002, 9003]


def unmount(directory: Path) -> None:
    directory.rename(directory.with_name(f"away-{os.stat(directory).st_ino}"))


def mount(directory: Path, *, empty: bool = False) -> None:
    if empty:
        directory.mkdir()
    else:
        shutil.copytree(QUICKSTART, directory)


async def test_a_directory_that_vanishes_and_comes_back_is_followed_again(directory: Path) -> None:
    async with following(FilesSource(directory, grace=0.1, poll=0.1)) as next_world:
        await next_world()
        unmount(directory)
        away = await next_world()
        assert ports(away) == [8001, 8002, 8003]
        assert "the directory cannot be read" in away.problems[0].message
        mount(directory, empty=True)
        unmounted = await next_world()
        assert ports(unmounted) == [8001, 8002, 8003]
        assert "has no manifests any more" in unmounted.problems[0].message
        unmount(directory)
        mount(directory)
        while (back := await next_world()).problems:
            assert ports(back) == [8001, 8002, 8003]
        (directory / "endpoints.yaml").write_text(ENDPOINTS.replace("8003", "9003"))
        assert ports(await next_world()) == [8001, 8002, 9003]


async def test_a_config_map_mount_is_read_once_and_followed_over_its_swap(tmp_path: Path) -> None:
    mount = tmp_path / "mount"

    def publish(version: str, endpoints: str) -> None:
        data = mount / f"..{version}"
        data.mkdir(parents=True)
        shutil.copy(QUICKSTART / "pool.yaml", data)
        (data / "endpoints.yaml").write_text(endpoints)
        os.symlink(data.name, mount / "..data_tmp")
        os.replace(mount / "..data_tmp", mount / "..data")

    publish("2025_1", ENDPOINTS)
    for name in ("pool.yaml", "endpoints.yaml"):
        os.symlink(f"..data/{name}", mount / name)
    async with following(FilesSource(mount, poll=0.1)) as next_world:
        first = await next_world()
        assert (ports(first), first.problems) == ([8001, 8002, 8003], ())
        publish("2025_2", ENDPOINTS.replace("8003", "9003"))
        shutil.rmtree(mount / "..2025_1")
        second = await next_world()
        assert (ports(second), second.problems) == ([8001, 8002, 9003], ())


async def test_what_changes_nothing_yields_nothing(directory: Path) -> None:
    async with following(FilesSource(directory, poll=0.05)) as next_world:
        await next_world()
        (directory / "pool.yaml").touch()
        (directory / "README.md").write_text("not a manifest")
        (directory / ".hidden.yaml").write_text("{")
        deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"
        (directory / "deployment.yaml").write_text(deployment)
        waiting = asyncio.ensure_future(next_world())
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        (directory / "endpoints.yaml").write_text(ENDPOINTS.replace("8003", "9003"))
        world = await waiting
        assert (world.revision, ports(world)) == (2, [8001, 8002, 9003])


async def test_a_directory_that_never_rests_is_read_all_the_same(directory: Path) -> None:
    async def scribble() -> None:
        for number in range(100_000):
            (directory / "noise.yaml").write_text(f"# {'x' * number}\n")
            await asyncio.sleep(0.002)

    async with following(FilesSource(directory, debounce=0.01, poll=0.05)) as next_world:
        scribbling = asyncio.create_task(scribble())
        assert ports(await next_world()) == [8001, 8002, 8003]
        (directory / "endpoints.yaml").write_text(ENDPOINTS.replace("8003", "9003"))
        assert ports(await next_world()) == [8001, 8002, 9003]
        scribbling.cancel()


class Zone:
    def __init__(self) -> None:
        self.addresses: list[str] | OSError = ["10.0.0.1"]

    async def __call__(self, name: str) -> Sequence[str]:
        if isinstance(self.addresses, OSError):
            raise self.addresses
        return self.addresses


def by_name(refresh: str = "100ms") -> str:
    head = ENDPOINTS.partition("  endpoints:")[0]
    return f"{head}  refresh: {refresh}\n  endpoints:\n  - address: vllm\n"


async def test_scaling_behind_a_name_is_followed(directory: Path) -> None:
    (directory / "endpoints.yaml").write_text(by_name())
    zone = Zone()
    async with following(FilesSource(directory, resolve=zone)) as next_world:
        first = await next_world()
        assert [endpoint.key for endpoint in first.endpoints_of(POOL)] == ["10.0.0.1:8000"]
        zone.addresses = ["10.0.0.2", "10.0.0.1"]
        second = await next_world()
        assert [e.name for e in second.endpoints_of(POOL)] == ["vllm-10.0.0.1", "vllm-10.0.0.2"]
        zone.addresses = OSError("name server is away")
        third = await next_world()
        assert third.endpoints == second.endpoints
        assert "name server is away" in third.problems[0].message


async def test_a_name_in_an_edit_comes_with_its_addresses_in_one_world(directory: Path) -> None:
    async with following(FilesSource(directory, resolve=Zone(), poll=0.05)) as next_world:
        await next_world()
        (directory / "endpoints.yaml").write_text(by_name())
        world = await next_world()
        assert [endpoint.key for endpoint in world.endpoints_of(POOL)] == ["10.0.0.1:8000"]
        assert world.problems == ()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("a file")])
async def test_a_missing_directory_is_an_error_that_says_what_to_do(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "nowhere"
    make(path)
    with pytest.raises(SourceError, match=r"create it and put|name the directory"):
        await anext(FilesSource(path).worlds())
    with pytest.raises(SourceError, match=r"create it and put|name the directory"):
        await read_once(path)


async def test_a_directory_of_other_things_is_a_warning_until_something_is_described(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.py").write_text("a = 1\n")
    async with following(FilesSource(tmp_path)) as next_world:
        (problem,) = (await next_world()).problems
        assert problem.severity is Severity.WARNING
        assert str(problem).startswith(f"{tmp_path}: nothing is described here")
        shutil.copy(QUICKSTART / "pool.yaml", tmp_path)
        assert not (await next_world()).problems
    (tmp_path / "pool.yaml").unlink()
    with pytest.raises(SourceError, match="nothing is described here"):
        await read_once(tmp_path)


async def test_a_directory_whose_only_manifest_is_broken_has_that_one_problem(
    tmp_path: Path,
) -> None:
    (tmp_path / "pool.yaml").write_text("kind: [")
    (problem,) = (await read_once(tmp_path)).problems
    assert problem.source == "pool.yaml"


async def test_reading_once_gives_the_same_world(directory: Path) -> None:
    (directory / "sub").mkdir()
    (directory / "endpoints.yaml").rename(directory / "sub" / "endpoints.yaml")
    world = await read_once(directory)
    async with following(FilesSource(directory)) as next_world:
        assert await next_world() == world
    assert world.endpoint_origins["127.0.0.1:8001"].source == "sub/endpoints.yaml"


async def test_a_stopped_source_leaves_no_task_behind(directory: Path) -> None:
    before = asyncio.all_tasks()
    async with following(FilesSource(directory)) as next_world:
        await next_world()
    assert asyncio.all_tasks() == before


async def test_a_watch_that_fails_is_replaced_by_polling(directory: Path) -> None:
    async def no_watches_left(path: Path) -> AsyncIterator[object]:
        raise OSError("no inotify watches left")
        yield None

    tries, often = 0, asyncio.Event()

    async def counted(path: Path) -> AsyncIterator[object]:
        nonlocal tries
        tries += 1
        if tries == 5:
            often.set()
        async for signal in no_watches_left(path):
            yield signal

    source = FilesSource(directory, watch=counted, poll=0.05)
    with structlog.testing.capture_logs() as logs:
        async with following(source) as next_world:
            await next_world()
            (directory / "endpoints.yaml").write_text(ENDPOINTS.replace("8003", "9003"))
            assert ports(await next_world()) == [8001, 8002, 9003]
            await often.wait()
    assert [line["error"] for line in logs if line["log_level"] == "warning"] == [
        "no inotify watches left"
    ]


def test_only_a_file_that_changed_is_read_again(directory: Path) -> None:
    contents = Contents(directory)
    first = contents.read(list_directory(directory))
    replace(directory / "endpoints.yaml", ENDPOINTS + "# more\n")
    (directory / "pool.yaml").touch()
    second = contents.read(list_directory(directory))
    assert second["pool.yaml"] is first["pool.yaml"]
    assert second["endpoints.yaml"] is not first["endpoints.yaml"]


def test_a_file_that_is_no_text_is_reported_with_its_line(directory: Path) -> None:
    (directory / "pool.yaml").write_bytes(b"a: b\nc: \xff\n")
    reading = Contents(directory).read(list_directory(directory))["pool.yaml"]
    assert isinstance(reading, Reading)
    [manifest] = reading.manifests
    assert manifest.obscure
    assert str(manifest.problems[0]) == "pool.yaml:2: is not UTF-8 text"


def test_what_is_no_readable_file_is_reported_and_never_opened(directory: Path) -> None:
    os.mkfifo(directory / "pipe.yaml")
    (directory / "dangling.yaml").symlink_to("nowhere")
    (directory / "loop").symlink_to(directory)
    readings = Contents(directory).read(list_directory(directory))
    assert readings["pipe.yaml"] == "it is not a regular file"
    assert readings["dangling.yaml"] == "no such file or directory"
    assert sorted(readings) == ["dangling.yaml", "endpoints.yaml", "pipe.yaml", "pool.yaml"]
