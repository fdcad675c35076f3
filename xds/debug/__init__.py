"""What the server knows, as JSON over HTTP and as web pages. ``/debug`` lists all of it."""

from xds.debug.chronicle import Chronicle
from xds.debug.pages import Subject, app
from xds.debug.pulse import pulse

__all__ = ["Chronicle", "Subject", "app", "pulse"]
