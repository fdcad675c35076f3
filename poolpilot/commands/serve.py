"""The group of commands that serve. They are made when one of them is asked for: to know their
defaults is to import both servers."""

from __future__ import annotations

from typing import Any

import typer
import typer.core


class _Servers(typer.core.TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return ["xds", "extproc", "all"]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # Each imports no more than it needs.
        if cmd_name == "extproc":
            from poolpilot.commands.serve_extproc import app
        else:
            from poolpilot.commands.servers import app
        group = typer.main.get_command(app)
        assert isinstance(group, typer.core.TyperGroup)
        return group.commands.get(cmd_name)


app = typer.Typer(
    cls=_Servers,
    help="Run the xDS server, the endpoint picker, or both.\n\n"
    "[bold]Example[/bold]\n\n  poolpilot serve all --manifests pools/",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
