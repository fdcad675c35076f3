"""The command line. What a command needs is imported when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any

import typer
import typer.core

from poolpilot.commands import (
    bootstrap,
    check,
    demo,
    explain,
    fake_vllm,
    inspect,
    manifests,
    serve,
    simulate,
)
from poolpilot.errors import PoolPilotError
from poolpilot.imports import explain_import


class _Commands(typer.core.TyperGroup):
    """Who read our output may have enough: typer would call that a failure."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _write_to_nobody()
            raise typer.Exit from None


app = typer.Typer(
    name="poolpilot",
    cls=_Commands,
    help="Routes LLM requests behind Envoy to the model-server pod that will answer them best.\n\n"
    "[bold]Start here[/bold]\n\n  poolpilot demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.add_typer(serve.app, name="serve")
app.command()(bootstrap.bootstrap)
app.add_typer(manifests.app, name="manifests")
app.command()(check.check)
app.command()(inspect.status)
app.command()(inspect.snapshot)
app.command()(inspect.diff)
app.command()(inspect.why)
app.command()(inspect.picks)
app.command()(explain.explain)
app.command("fake-vllm")(fake_vllm.fake_vllm)
app.command()(simulate.simulate)


def _show_version(wanted: bool) -> None:
    if wanted:
        import platform
        from importlib.metadata import version as installed

        from extproc.compiled import is_compiled

        path = "compiled" if is_compiled() else "interpreted"
        python = f"{platform.python_implementation()} {platform.python_version()}"
        typer.echo(f"poolpilot {installed('poolpilot')} ({python}, request path {path})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The ``poolpilot`` command: exit status 0 for success, 1 for a failure that is explained on
    stderr, 2 for wrong usage."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a terminal cannot show is no reason not to show the rest.
        sys.stdout.reconfigure(errors="replace")
    try:
        app(prog_name="poolpilot")
    except PoolPilotError as error:
        sys.stderr.write(f"poolpilot: {error}\n")
        sys.exit(1)
    except ImportError as error:
        explanation = explain_import(error)
        if explanation is None:
            raise
        sys.stderr.write(f"poolpilot: {explanation}\n")
        sys.exit(1)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _write_to_nobody()


def _write_to_nobody() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
