"""Kubernetes manifests: one set of templates, for ``manifests/`` and for users' own names."""
