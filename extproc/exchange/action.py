"""What an exchange wants done."""

from __future__ import annotations

import enum

from extproc.request import Completed, InferenceRequest, Refused


class Withdraw(enum.Enum):
    """Tell the picker that nobody waits for its answer any more."""

    WITHDRAW = enum.auto()


Action = bytes | InferenceRequest | Completed | Refused | Withdraw
"""``bytes``: send this message. ``InferenceRequest``: ask the picker (always the last action of a
call, as the answer may come at once). ``Completed``: tell the picker how it ended.
``Refused``: the client was told this (the message is an action before it); for counting.

Plain values, because there are several for every request.
"""
