"""Commands whose options come in groups: a dataclass each, with one field for one option.

A field says all of its option: type, name, variable, help, and the default, which is that of the
configuration that it belongs to. ``SERVER`` of a group is what stands before a name that another
group has for something else. Several commands take the same groups.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo


@dataclass(frozen=True, slots=True)
class _Field:
    parameter: str
    """Of the function that takes the group."""
    server: str
    name: str
    annotation: Any
    """Without typer's part."""
    option: OptionInfo
    default: Any


def takes_groups(function: Callable[..., None]) -> Callable[..., None]:
    """A function that typer makes a command of, from one whose parameters are groups.

    An option that two groups have is the same if its variable is; it goes to both, and where its
    default differs each keeps its own. Otherwise the server's name is put in front of each.
    Parameters that are no groups stay as they are.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {
        name: one for name, one in hints.items() if dataclasses.is_dataclass(one)
    }
    parameters = [
        one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for one in inspect.signature(function).parameters.values()
        if one.name not in groups
    ]
    # Which values of a call belong to which field of which group.
    places: dict[str, list[_Field]] = {}
    for same in _by_name(groups).values():
        if len({field.option.envvar for field in same}) == 1:
            parameters.append(_shared(same))
            places[same[0].name] = same
        else:
            for field in same:
                parameters.append(_prefixed(field))
                places[f"{field.server}_{field.name}"] = [field]

    def command(**values: Any) -> None:
        taken: dict[str, dict[str, Any]] = {name: {} for name in groups}
        for name, fields in places.items():
            value = values.pop(name)
            for field in fields:
                if value is not None:
                    taken[field.parameter][field.name] = value
        made = {name: group(**taken[name]) for name, group in groups.items()}
        function(**made, **values)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _by_name(groups: dict[str, Any]) -> dict[str, list[_Field]]:
    found: dict[str, list[_Field]] = {}
    for parameter, group in groups.items():
        for field in _fields(parameter, group):
            found.setdefault(field.name, []).append(field)
    return found


def _fields(parameter: str, group: Any) -> Iterator[_Field]:
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        annotation = hints[field.name]
        assert get_origin(annotation) is Annotated, field.name
        base, option = get_args(annotation)
        default = (
            field.default
            if field.default_factory is dataclasses.MISSING
            else field.default_factory()
        )
        yield _Field(parameter, group.SERVER, field.name, base, option, default)


def _shared(same: list[_Field]) -> inspect.Parameter:
    first, option = same[0], copy.copy(same[0].option)
    defaults = [field.default for field in same]
    if any(default != defaults[0] for default in defaults):
        each = ", ".join(f"{field.default:g} ({field.server})" for field in same)
        option.help = f"{option.help} Default: {each}."
        return _parameter(first.name, first.annotation | None, option, None)
    return _parameter(first.name, first.annotation, option, first.default)


def _prefixed(field: _Field) -> inspect.Parameter:
    option = copy.copy(field.option)
    name = f"{field.server}_{field.name}"
    assert option.default is ..., f"{field.name}: its name is to be that of the field"
    return _parameter(name, field.annotation, option, field.default)


def _parameter(name: str, base: Any, option: OptionInfo, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[base, option],
    )


def option(
    variable: str,
    panel: str | None,
    help: str,  # noqa: A002  # typer's word
    *,
    flag: str = "",
    check: Callable[[str], object] | None = None,
    **more: Any,
) -> Any:
    """An option with its environment variable. Its name is that of the field, or ``flag`` where
    there is a form for "no" too. ``check`` raises ValueError for a text that cannot be used."""

    def checked(value: Any) -> Any:
        try:
            for one in value if isinstance(value, list | tuple) else [value]:
                if check is not None and one is not None:
                    check(one)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return value

    return typer.Option(
        *([flag] if flag else []),
        envvar=variable or None,
        help=help,
        rich_help_panel=panel,
        callback=checked if check is not None else None,
        **more,
    )
