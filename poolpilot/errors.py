"""What the command line reports in one line instead of a traceback."""

from __future__ import annotations


class PoolPilotError(Exception):
    """A failure that the user can mend. The message names the object and says what to do."""
