"""The commands: their options and help. What they do lives beside this package."""
