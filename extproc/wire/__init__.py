"""Protobuf messages and encoders for the hot path.

The ``.proto`` files hold only the fields that we use, with Envoy's names and numbers, in a package
of our own, so that they never clash with the full definitions in one process. A test compares each
field with envoy-data-plane. ``make proto`` regenerates the modules.
"""
