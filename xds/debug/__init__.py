"""What the server knows, as JSON over HTTP and as web pages. ``/debug`` lists all of it."""

from xds.debug.change_log import ChangeLog
from xds.debug.pages import Subject, app
from xds.debug.pulse import pulse

__all__ = ["ChangeLog", "Subject", "app", "pulse"]
