"""Templates of YAML files, with ``$name`` where a value goes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from string import Template

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")


def render(folder: str, name: str, values: Mapping[str, object]) -> str:
    """The text of a template. Raises KeyError for a name without a value."""
    path = files("poolpilot.manifests") / "templates" / folder / f"{name}.yaml"
    return Template(path.read_text(encoding="utf-8")).substitute(values)


def check_label(what: str, value: str) -> None:
    """Raises ValueError if ``value`` cannot be the name of a Service, which is the strictest."""
    if not _DNS_LABEL.fullmatch(value):
        raise ValueError(
            f"{what} {value!r}: must be at most 63 lower-case letters, digits and '-', and begin "
            "and end with a letter or digit"
        )


def check_port(what: str, value: int) -> None:
    if not 1 <= value <= 65535:
        raise ValueError(f"{what} {value}: must be a port number from 1 to 65535")


def check_image(value: str) -> None:
    if not _IMAGE.fullmatch(value):
        raise ValueError(f"image {value!r}: must be of the form registry/name:tag")


def join(documents: Mapping[str, str]) -> str:
    """One stream of several files; each begins with its name."""
    return "".join(f"---\n# {name}\n{text}" for name, text in documents.items())
