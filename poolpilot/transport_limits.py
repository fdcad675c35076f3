"""Reading ``NAME=VALUE`` limits of the native transport from options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from extproc.transport.h2 import Limits
    from extproc.transport.native import Upkeep

OPTION = "--transport-limit"
_OFF_AT_0 = ("busy_poll",)
"""What 0 turns off. Elsewhere 0 would let nothing through."""


def transport_limits(texts: Sequence[str]) -> tuple[Limits, Upkeep]:
    """Limits and upkeep with these changes. Raises typer.BadParameter that names what there is."""
    from extproc.transport.h2 import Limits
    from extproc.transport.native import Upkeep

    limits, upkeep = Limits(), Upkeep()
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if equals and name in _names(limits):
                limits = dataclasses.replace(limits, **{name: _read(value, getattr(limits, name))})
            elif equals and name in _names(upkeep):
                off = name in _OFF_AT_0 and _number(value) == 0
                new: Any = 0.0 if off else _read(value, getattr(upkeep, name))
                upkeep = dataclasses.replace(upkeep, **{name: new})
            else:
                raise ValueError(_known(limits, upkeep))
        except ValueError as error:
            raise typer.BadParameter(f"{text!r}: {error}", param_hint=OPTION) from error
    return limits, upkeep


def _read(text: str, default: object) -> Any:
    """A value of the kind that the default is of."""
    from extproc.transport.h2.limits import Rate

    if isinstance(default, Rate):
        rate, slash, burst = text.partition("/")
        if not slash:
            raise ValueError("write PER_SECOND/BURST, such as 1000/10000")
        return Rate(_positive(rate), int(_positive(burst, whole=True)))
    if isinstance(default, int):
        return int(_positive(text, whole=True))
    return _positive(text)


def _positive(text: str, *, whole: bool = False) -> float:
    value = _number(text, whole=whole)
    if not 0 < value < float("inf"):
        raise ValueError("it must be greater than 0")
    return value


def _number(text: str, *, whole: bool = False) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no {'whole ' if whole else ''}number") from None


def _names(one: Limits | Upkeep) -> list[str]:
    return [field.name for field in dataclasses.fields(one)]


def _known(*of: Limits | Upkeep) -> str:
    names = sorted(name for one in of for name in _names(one))
    return f"write NAME=VALUE; there are {', '.join(names)}"
