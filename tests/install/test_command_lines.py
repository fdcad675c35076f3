"""Every command line of the README and of docs/ does what it says, as it is printed.

A block of commands has the language `sh` or `console` (lines that begin with `$`). All blocks of a
page are run one after the other, as a reader would, in a copy of the checkout and in a network of
its own, where every port is free. Above one that cannot be run stands why not:

    <!-- not run: takes a cluster -->

Of those, and of the commands in running text, at least every option is one that there is.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from e2e.envoy_gateway.network import NoNetworkError, private_network
from poolpilot.cli import app
from poolpilot.demo.processes import Child, Children

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LIMIT = 60.0
"""Seconds that a command may take, or take to be there."""

BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
COMMANDS = ("sh", "console")

SERVES = {
    r"make demo": {8081, 9090, 18001, 19000},
    r"poolpilot serve all": {9090, 18001},
    r"poolpilot serve xds": {18001},
    r"poolpilot serve extproc": {9090},
    r"poolpilot fake-vllm": {8000},
    r"poolpilot demo(?!.*--requests)": {8081, 9090, 18001, 19000},
    r"envoy -c": {8081, 19000},
}
"""What runs until it is stopped, and the ports that it has when it is there."""


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[str]:
        """Without prompts, comments and what a command prints."""
        whole = self.text.replace("\\\n", " ")
        for line in whole.splitlines():
            if self.language == "console" and not line.startswith("$ "):
                continue
            words = re.sub(r"\s+#.*$", "", line.removeprefix("$ ")).strip()
            if words and not words.startswith("#"):
                yield words


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text[: m.start()].count("\n") + 1, m["language"], m["text"], m["why"])
        for m in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]


def test_every_block_says_what_it_is() -> None:
    assert ALL
    for page in PAGES:
        fences = re.findall(r"^\s*```", page.read_text(), re.M)
        assert len(fences) == 2 * len(blocks(page)), f"{page}: a fence in a list, or not closed"
    for block in ALL:
        assert block.language, f"{block}: no language; `sh`, `console`, or `text` for no command"
        if block.why_not:
            assert block.language in COMMANDS, f"{block}: not run anyway"
        if block.language in COMMANDS:
            assert list(block.commands()), f"{block}: no command"


class Reader:
    """Types what a page says into a terminal, and a further one for what goes on running."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.children = Children(logs)
        self.serving: dict[str, set[int]] = {}
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(logs),
        }

    def type(self, command: str) -> None:
        for pattern, ports in SERVES.items():
            if re.search(pattern, command):
                self._serve(command, ports)
                return
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self._logs()}"
        if done.stdout.startswith("HTTP/"):
            assert done.stdout.split()[1] == "200", done.stdout

    def _serve(self, command: str, ports: set[int]) -> None:
        # What has the ports now is stopped first, with Ctrl-C.
        for other, taken in list(self.serving.items()):
            if taken & ports:
                self.children[other].terminate()
                self.children[other].process.wait(LIMIT)
                del self.serving[other]
        child = self.children.start(
            f"{len(list(self.children))}",
            ["bash", "-c", f"cd {shlex.quote(str(self.folder))} && exec {command}"],
            env=self.environment,
        )
        self.serving[child.name] = ports
        deadline = time.monotonic() + LIMIT
        for port in ports:
            while not _listens(port):
                assert child.running(), f"{command}\n{child.obituary()}"
                assert time.monotonic() < deadline, f"{command}\nnot there: {port}\n{self._logs()}"
                time.sleep(0.05)

    def _logs(self) -> str:
        return "\n".join(_said(child) for child in self.children)


def _said(child: Child) -> str:
    return f"{child.name}: {child.tail()}"


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """In the checkout after `make demo`, or what cannot be told from it: what is written there is
    not written into ours."""
    folder, logs = tmp_path / "poolpilot", tmp_path / "logs"
    folder.mkdir()
    logs.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in {".venv", ".git"}:
            (folder / entry.name).symlink_to(entry)
    venv = folder / ".venv"
    venv.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith(".installed"):
            (venv / entry.name).symlink_to(entry)
    (venv / ".installed-demo").touch()
    for program in ("bash", "make", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    reader = Reader(folder, logs)
    try:
        with private_network():
            try:
                yield reader
            finally:
                reader.children.stop(10)
    except NoNetworkError as error:
        pytest.skip(str(error))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.language in COMMANDS and not b.why_not for b in blocks(page))],
    ids=lambda page: page.name,
)
def test_the_commands_of_a_page_work_as_printed(reader: Reader, page: Path) -> None:
    if page.name != "README.md":
        # docs/install.md says what the pages mean by `poolpilot`.
        reader.environment["PATH"] = f"{reader.folder / '.venv/bin'}:{reader.environment['PATH']}"
    for block in blocks(page):
        if block.language in COMMANDS and not block.why_not:
            for command in block.commands():
                reader.type(command)


def _mentioned() -> Iterator[tuple[str, str]]:
    """Place and text of each command of ours, run or not, in a block or in running text."""
    for block in ALL:
        if block.language in COMMANDS:
            for command in block.commands():
                yield str(block), command
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            for code in re.findall(r"`([^`]+)`", line):
                yield f"{page.relative_to(ROOT)}:{number}", code


def _words(command: str, program: str) -> list[str] | None:
    """The words after ``program``, up to the end of its command."""
    found = re.search(rf"(?:^|[ (/&]){program} (.*)", command)
    if found is None or not re.match(rf"(?:\S*/)?(?:\S+ )?{program} ", command):
        return None
    with contextlib.suppress(ValueError):
        words = shlex.split(found[1], comments=True)
        ends = [number for number, word in enumerate(words) if re.fullmatch(r"[|<>;&]+", word)]
        return words[: ends[0]] if ends else words
    return None


def test_every_option_that_is_mentioned_is_there() -> None:
    checked = 0
    for place, command in _mentioned():
        words = _words(command, "poolpilot")
        if words:
            checked += 1
            _check_options(place, words)
    assert checked > 20


def _check_options(place: str, words: Sequence[str]) -> None:
    command: Any = typer.main.get_command(app)
    context = typer.Context(command)
    rest = list(words)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        name = rest.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"{place}: there is no command {name}"
    options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    for word in rest:
        if word.startswith("-") and word != "-":
            option = word.partition("=")[0]
            assert option in {*options, "-h", "--help"}, f"{place}: {command.name} has no {option}"


def test_every_make_target_that_is_mentioned_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    checked = 0
    for place, command in _mentioned():
        words = _words(command, "make")
        if words:
            checked += 1
            assert words[0] in targets, f"{place}: there is no target {words[0]}"
    assert checked > 5
