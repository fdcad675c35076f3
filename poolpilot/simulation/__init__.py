"""What ``poolpilot simulate`` shows: a table, JSON, plots, and a page."""
