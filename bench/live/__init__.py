"""Workloads against real processes: ``python -m bench.policies_live``."""
