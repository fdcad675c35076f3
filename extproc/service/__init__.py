"""The picker as a server."""
