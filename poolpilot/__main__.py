"""``python -m poolpilot``."""

from poolpilot.cli import main

main()
