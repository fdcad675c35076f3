"""What all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_log_handler_stays() -> Iterator[None]:
    """A command that ran inside a test has set up logging to a stream that is closed by now; later
    tests would print complaints about that in place of their own logs."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    root.handlers[:] = [
        handler
        for handler in root.handlers
        if handler in before or type(handler) is not logging.StreamHandler
    ]
