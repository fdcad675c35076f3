"""The inference APIs: which one a path speaks, and what of a request's body matters to a pick."""
