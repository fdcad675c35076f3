"""What people see of the picker: pages, metrics, traces, log lines."""
