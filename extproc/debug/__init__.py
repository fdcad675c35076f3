"""What the picker knows, as JSON over HTTP and as web pages. ``/debug`` lists all of it."""

from extproc.debug.pages import application
from extproc.debug.pulse import pulse

__all__ = ["application", "pulse"]
