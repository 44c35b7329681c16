"""One folder per task: its settings, data, template, support, target and metrics."""
