"""What counts of a directory in which files break, empty, vanish and come back."""

import pytest

from pools.catalog import Catalog
from pools.manifests import Reading, read_text
from pools.model import InferencePool

GRACE = 2.0


def pool(name: str, port: object = 8000) -> str:
    return f"""---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: {name}}}
spec: {{selector: {{matchLabels: {{a: b}}}}, targetPorts: [{{number: {port}}}]}}
"""


class Directory:
    """A directory in memory, and a clock."""

    def __init__(self, **files: str) -> None:
        self.catalog = Catalog(GRACE)
        self.now = 0.0
        self.files: dict[str, Reading | str] = {}
        self.unreadable = ""
        self.write(**files)

    def write(self, **files: str) -> None:
        self.files |= {
            f"{name}.yaml": read_text(text, f"{name}.yaml") for name, text in files.items()
        }
        self.look()

    def fail(self, name: str, reason: str = "permission denied") -> None:
        self.files[f"{name}.yaml"] = reason
        self.look()

    def remove(self, *names: str) -> None:
        for name in names:
            del self.files[f"{name}.yaml"]
        self.look()

    def look(self, after: float = 0.0) -> None:
        self.now += after
        self.catalog.update(self.files, self.now, unreadable=self.unreadable)

    @property
    def pools(self) -> dict[str, int]:
        found = [item for item in self.catalog.objects() if isinstance(item, InferencePool)]
        return {item.name.name: item.target_ports[0] for item in found}

    @property
    def said(self) -> list[str]:
        return [str(problem) for problem in self.catalog.problems()]


def test_an_edit_counts_at_once() -> None:
    directory = Directory(f=pool("a"), g=pool("b"))
    directory.write(f=pool("a", 9000))
    assert directory.pools == {"a": 9000, "b": 8000}
    assert directory.said == []
    assert directory.catalog.deadline() is None


def test_a_broken_object_keeps_its_last_good_version_while_its_neighbour_changes() -> None:
    directory = Directory(f=pool("a") + pool("b"))
    directory.write(f=pool("a", 0) + pool("b", 9000))
    directory.look(after=3600.0)
    assert directory.pools == {"a": 8000, "b": 9000}
    assert directory.said == [
        "f.yaml:5: InferencePool default/a spec.targetPorts[0].number: must be a port number from 1"
        " to 65535, not 0 (the last good version stays in effect)"
    ]


def test_an_object_that_was_never_good_is_not_in_effect() -> None:
    directory = Directory(f=pool("a", 0), g=pool("b"))
    assert directory.pools == {"b": 8000}
    assert len(directory.said) == 1
    assert "stays" not in directory.said[0]


@pytest.mark.parametrize("text", ["{", "apiVersion: inf", "kind: InferencePool", "apiV", "a: b: c"])
def test_a_half_written_file_keeps_what_it_held_for_as_long_as_it_is_broken(text: str) -> None:
    directory = Directory(f=pool("a") + pool("b"), g=pool("c"))
    directory.write(f=text)
    directory.look(after=3600.0)
    assert set(directory.pools) == {"a", "b", "c"}
    [said] = directory.said
    assert said.startswith("f.yaml:")
    assert said.endswith("(what this file held before stays in effect)")
    directory.write(f=pool("a"))
    directory.look(after=GRACE)
    assert set(directory.pools) == {"a", "c"}


def test_an_emptied_file_never_deletes_anything() -> None:
    directory = Directory(f=pool("a"), g=pool("b"))
    directory.write(f="# nothing\n---\n")
    directory.look(after=3600.0)
    assert set(directory.pools) == {"a", "b"}
    assert directory.said == [
        "f.yaml: is empty; what it held stays in effect: to remove that, delete the file"
    ]
    directory.remove("f")
    directory.look(after=GRACE)
    assert set(directory.pools) == {"b"}


def test_an_empty_file_that_never_held_anything_is_no_problem() -> None:
    assert Directory(f="# later\n", g=pool("a")).said == []


def test_an_object_goes_once_it_was_away_for_the_grace_period() -> None:
    directory = Directory(f=pool("a") + pool("b"))
    directory.write(f=pool("a"))
    assert set(directory.pools) == {"a", "b"}
    assert directory.said == [
        "f.yaml:7: InferencePool default/b: is no longer in f.yaml;"
        " it stays in effect for 2 seconds in case it comes back"
    ]
    assert directory.catalog.deadline() == GRACE
    directory.look(after=GRACE - 0.1)
    assert set(directory.pools) == {"a", "b"}
    directory.look(after=0.1)
    assert set(directory.pools) == {"a"}
    assert directory.said == []
    assert directory.catalog.deadline() is None


def test_a_file_that_comes_back_in_time_was_never_away() -> None:
    directory = Directory(f=pool("a"), g=pool("b"))
    directory.remove("f")
    directory.look(after=GRACE - 0.1)
    directory.write(f=pool("a", 9000))
    directory.look(after=GRACE)
    assert directory.pools == {"a": 9000, "b": 8000}
    directory.remove("f")  # the clock starts anew
    directory.look(after=GRACE - 0.1)
    assert set(directory.pools) == {"a", "b"}


def test_an_object_that_moves_to_another_file_takes_effect_there_at_once() -> None:
    directory = Directory(f=pool("a"), g=pool("b"))
    directory.remove("f")
    directory.write(h=pool("a", 9000))
    assert directory.pools == {"a": 9000, "b": 8000}
    assert directory.said == []


def test_what_a_broken_file_held_gives_way_to_a_good_version_elsewhere() -> None:
    directory = Directory(f=pool("a"), g=pool("b"))
    directory.write(f="a: [", g=pool("b") + pool("a", 9000))
    assert directory.pools == {"a": 9000, "b": 8000}


def test_nothing_goes_while_another_file_cannot_be_read() -> None:
    directory = Directory(f=pool("a"), g=pool("b"), h=pool("c"))
    directory.fail("h")
    directory.remove("f")
    directory.look(after=3600.0)
    assert set(directory.pools) == {"a", "b", "c"}
    assert directory.said == [
        "f.yaml:2: InferencePool default/a: is no longer in f.yaml, which is gone;"
        " it stays in effect until all of h.yaml can be read",
        "h.yaml: cannot be read: permission denied; what it held stays in effect",
    ]
    assert directory.catalog.deadline() is None
    directory.write(h=pool("c"))
    assert set(directory.pools) == {"b", "c"}


def test_a_directory_that_lost_everything_deletes_nothing() -> None:
    directory = Directory(f=pool("a"), g=pool("b"))
    directory.remove("f", "g")
    directory.look(after=3600.0)
    assert set(directory.pools) == {"a", "b"}
    assert directory.said[0] == "the directory has no manifests any more; its last state is kept"
    directory.write(f=pool("c"))
    directory.look(after=GRACE)
    assert set(directory.pools) == {"c"}


def test_a_directory_that_cannot_be_listed_deletes_nothing() -> None:
    directory = Directory(f=pool("a"), g=pool("b"))
    directory.unreadable = "no such file or directory"
    directory.files = {}
    directory.look()
    directory.look(after=3600.0)
    assert set(directory.pools) == {"a", "b"}
    assert directory.said == [
        "the directory cannot be read (no such file or directory); its last state is kept"
    ]
    directory.unreadable = ""
    directory.write(g=pool("b"))
    assert set(directory.pools) == {"a", "b"}  # the grace period starts now
    directory.look(after=GRACE)
    assert set(directory.pools) == {"b"}


def test_nothing_goes_while_a_part_of_the_directory_cannot_be_listed() -> None:
    directory = Directory(f=pool("a") + pool("b"))
    directory.unreadable = "sub: permission denied"
    directory.write(f=pool("a"))
    directory.look(after=3600.0)
    assert set(directory.pools) == {"a", "b"}
    directory.unreadable = ""
    directory.look()
    assert set(directory.pools) == {"a"}


def test_the_first_of_two_objects_in_one_file_comes_first() -> None:
    directory = Directory(f=pool("a", 1) + pool("a", 2))
    assert [
        o.target_ports for o in directory.catalog.objects() if isinstance(o, InferencePool)
    ] == [
        (1,),
        (2,),
    ]
