"""The picking core: from one request to one decision, and what became of it."""
