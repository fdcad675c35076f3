"""``serve extproc``: apart from what serves the other server, whose imports take half a second. A
picker that is started again is waited for."""

from __future__ import annotations

import typer

from poolpilot import logs, parts
from poolpilot.grouping import takes_groups
from poolpilot.lifecycle import CLOSING, run_until_stopped
from poolpilot.options import LogOptions
from poolpilot.picker_options import PickerOptions
from poolpilot.sources import Where

app = typer.Typer(rich_markup_mode="rich")


@app.callback()
def group() -> None:
    """One command alone would be the whole application."""


@app.command("extproc")
@takes_groups
def serve_extproc(where: Where, picker: PickerOptions, log: LogOptions) -> None:
    """Pick an endpoint for each request that Envoy asks about (ext-proc).

    [bold]Example[/bold]

      poolpilot serve extproc --manifests pools/ --transport native

      curl http://127.0.0.1:9090/debug/decisions?limit=1
    """
    logs.configure(log.log_level, log.log_format)
    source, config = where.source(with_routes=False), picker.config()
    run_until_stopped(
        lambda: {"endpoint picker": parts.endpoint_picker(source, config, picker.grace)},
        grace=picker.grace + CLOSING,
    )
