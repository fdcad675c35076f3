"""Traffic to try policies on: the public workloads W1 to W9, failures, and recorded traces."""

from sim.workloads.catalogue import WORKLOADS

__all__ = ["WORKLOADS"]
