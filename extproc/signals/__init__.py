"""Reading the model servers' own metrics."""
