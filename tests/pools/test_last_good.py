"""Whatever is done to a directory, the World is what the rules of last good say."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pools.assemble import assemble
from pools.catalog import Catalog
from pools.directory import Contents, list_directory
from pools.manifests import Key, read_text

GRACE = 2.0
FILES = ("a.yaml", "b.yml", "sub/c.yaml")


def good(name: str, port: int) -> str:
    return f"""apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: x}}}}
  targetPorts:
  - number: {port}
"""


FOREIGN = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"
names = st.sampled_from("pqrs")
valid = st.builds(good, names, st.integers(1, 4))
invalid = st.builds(good, names, st.just(0))
obscure = st.sampled_from(["{ not: [yaml", "kind: InferencePool\n"])
nothing = st.sampled_from([FOREIGN, "# nothing\n"])
texts = st.one_of(
    st.just(""),
    valid,
    st.lists(valid, max_size=3).map("---\n".join),
    st.lists(valid | invalid | obscure | nothing, max_size=3).map("---\n".join),
)
files = st.sampled_from(FILES)
actions = st.one_of(
    st.tuples(st.just("write"), files, texts),
    st.tuples(st.just("delete"), files),
    st.tuples(st.just("cut"), files, st.floats(0, 1)),
    st.tuples(st.just("move"), files, files),
    st.tuples(st.sampled_from(["vanish", "return"])),
)
steps = st.tuples(actions, st.sampled_from([0.0, 0.5, GRACE]))
"""Something is done, and looked at, and looked at again after some seconds."""
filled = st.tuples(*(st.tuples(st.just("write"), st.just(path), valid) for path in FILES))


@dataclass
class Model:
    """The rules, told over again in the simplest way, from the text of each file."""

    good: dict[tuple[str, Key], int] = field(default_factory=dict)
    """The port of the last good version by file and object."""
    away_since: dict[tuple[str, Key], float] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    """Objects of which there was a good version at the last look."""
    effective: dict[str, int] = field(default_factory=dict)

    def look(self, files: dict[str, str] | None, now: float) -> None:
        readings = {path: read_text(text, path) for path, text in (files or {}).items()}
        said: dict[tuple[str, Key], int] = {}
        for path, reading in readings.items():
            for manifest in reading.manifests:
                if manifest.object is not None and manifest.key is not None:
                    port = manifest.object.target_ports[0]  # type: ignore[union-attr]
                    said.setdefault((path, manifest.key), port)
        self.good |= said
        for path, key in list(self.good):
            reading = readings.get(path)
            if files is None:
                away = False
            elif reading is None:
                away = True
            else:
                mentioned = {manifest.key for manifest in reading.manifests}
                obscure = any(manifest.obscure for manifest in reading.manifests)
                away = bool(reading.documents) and not obscure and key not in mentioned
            if away:
                self.away_since.setdefault((path, key), now)
            else:
                self.away_since.pop((path, key), None)
        may_remove = bool(said) and not any(
            m.obscure for r in readings.values() for m in r.manifests
        )
        said_anywhere = {key for _, key in said}
        for (path, key), since in list(self.away_since.items()):
            if key in said_anywhere or (may_remove and now >= since + GRACE):
                del self.away_since[path, key], self.good[path, key]
        self.said = {key[1].name for key in said_anywhere}
        self.effective = {}
        for (_, key), port in [*sorted(said.items()), *sorted(self.good.items())]:
            self.effective.setdefault(key[1].name, port)


class Disk:
    """A real directory, in which every write has a time of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root / "manifests"
        self.away = root / "away"
        self.root.mkdir()
        self.texts: dict[str, str] = {}
        self.writes = 0

    @property
    def place(self) -> Path:
        return self.root if self.root.exists() else self.away

    def write(self, path: str, text: str) -> None:
        file = self.place / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        self.writes += 1
        os.utime(file, ns=(self.writes * 10**9, self.writes * 10**9))
        self.texts[path] = text

    def delete(self, path: str) -> None:
        if self.texts.pop(path, None) is not None:
            (self.place / path).unlink()

    def apply(self, step: tuple[object, ...]) -> None:
        match step:
            case ("write", str(path), str(text)):
                self.write(path, text)
            case ("cut", str(path), float(part)) if path in self.texts:
                self.write(path, self.texts[path][: int(len(self.texts[path]) * part)])
            case ("delete", str(path)):
                self.delete(path)
            case ("move", str(path), str(target)) if path in self.texts and path != target:
                text = self.texts[path]
                self.delete(path)
                self.write(target, text)
            case ("vanish",) if self.root.exists():
                self.root.rename(self.away)
            case ("return",) if self.away.exists():
                self.away.rename(self.root)


@settings(max_examples=100)
@given(filled, st.lists(steps, max_size=15))
def test_the_world_is_always_the_last_good_state(
    beginning: tuple[tuple[object, ...], ...], rest: list[tuple[tuple[object, ...], float]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        disk = Disk(Path(name))
        contents, catalog, model = Contents(disk.root), Catalog(GRACE), Model()

        def look(now: float) -> set[str]:
            """Compare what the directory and the model say; returns the pools in effect."""
            listing = list_directory(disk.root)
            catalog.update(contents.read(listing), now, unreadable=listing.unreadable)
            model.look(disk.texts if disk.root.exists() else None, now)
            world = assemble(catalog.objects(), problems=catalog.problems())
            ports = {pool.name.name: pool.target_ports[0] for pool in world.pools.values()}
            assert ports == model.effective
            # Whatever stays without being said any more is reported.
            assert world.problems or set(ports) == model.said
            return set(ports)

        now = 0.0
        for step in beginning:
            disk.apply(step)
        look(now)
        for step, seconds in rest:
            said = set(model.said)
            disk.apply(step)
            # Nothing that a file said a moment ago is lost in one stroke: only time takes it away.
            assert look(now) >= said
            now += seconds
            look(now)
