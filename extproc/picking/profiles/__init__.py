"""Scheduling profiles from a file: which filters, scorers and picker, for which pool.

``document`` reads the text, in our own form or as llm-d's EndpointPickerConfig; ``plugins`` knows
every step and its parameters.
"""

from extproc.picking.profiles.document import read_profiles
from extproc.picking.profiles.profile_set import ProfileSet, builtin

__all__ = ["ProfileSet", "builtin", "read_profiles"]
