"""What the picker knows, as JSON over HTTP and as web pages. ``/debug`` lists all of it."""

from extproc.observability.debug.pages import application
from extproc.observability.debug.pulse import pulse

__all__ = ["application", "pulse"]
