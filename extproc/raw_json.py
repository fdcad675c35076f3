"""What is looked for in JSON text that is too large to be parsed."""

from __future__ import annotations

import re
from typing import Final

DATA_URL: Final = re.compile(rb'"data:[^"]{1000,}+"')
"""Shorter ones count as text: each takes its time, and there may be millions."""
TOKEN_IDS: Final = re.compile(rb"[\[ \t\r\n]*+[0-9]")
"""A prompt of token ids, or of several lists of them."""
