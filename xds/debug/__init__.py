"""What the server knows, as JSON over HTTP and as web pages. ``/debug`` lists all of it."""

from xds.debug.chronicle import Chronicle
from xds.debug.live import Live, pulse
from xds.debug.pages import Subject, app

__all__ = ["Chronicle", "Live", "Subject", "app", "pulse"]
