"""The whole path on one machine: simulated model servers, both our servers and Envoy."""
