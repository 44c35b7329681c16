"""One file a task: its data, template, support, target and metrics."""
