"""Moments as the API writes them."""

from __future__ import annotations

import datetime


def rfc3339(moment: datetime.datetime) -> str:
    """To the second (Time)."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time(moment: datetime.datetime) -> str:
    """To the microsecond, as Leases and Events have it (MicroTime)."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
