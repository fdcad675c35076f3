"""What the server knows, as JSON over HTTP. The pages are listed at ``/debug``."""

from xds.debug.pages import Subject, app

__all__ = ["Subject", "app"]
