"""What holds for the tests of everything, wherever they run."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

from tests.skips import pytest_unconfigure

__all__ = ["pytest_unconfigure"]

# How long an example takes is the machine's affair, which may have other things to do.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=(HealthCheck.too_slow,)
)
settings.load_profile("any machine")

# Whoever runs the tests under nohup has them ignore SIGHUP, and with them every process that they
# start, of which some are to end by it. A handler is not inherited.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
