"""Where Envoy connects to, read from options, with errors that name the option."""

from __future__ import annotations

import typer

from xds.translate.settings import SocketAddress, TargetAddress, parse_target


def socket_address(text: str, option: str) -> SocketAddress:
    """``host:port``. Raises typer.BadParameter, as all here."""
    try:
        return SocketAddress.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def target_address(text: str, option: str) -> TargetAddress:
    """``host:port`` or ``unix:/path``."""
    try:
        return parse_target(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def collector_address(url: str, option: str) -> SocketAddress | None:
    """``http://host:port``; None for an empty text."""
    if not url:
        return None
    scheme, separator, rest = url.rstrip("/").partition("://")
    if not separator or scheme != "http":
        raise typer.BadParameter(f"{url!r} is not of the form http://host:port", param_hint=option)
    return socket_address(rest, option)
