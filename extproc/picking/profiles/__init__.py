"""Scheduling profiles from a file: which filters, scorers and picker, for which pool.

``document`` reads the text, in our own form or as llm-d's EndpointPickerConfig; ``plugins`` knows
every step and its parameters; ``file`` follows the file and keeps the last good one.
"""

from extproc.config.profiles_file import ProfilesFile
from extproc.picking.profiles.document import read_profiles
from extproc.picking.profiles.profile_set import ProfileSet, builtin

__all__ = ["ProfileSet", "ProfilesFile", "builtin", "read_profiles"]
