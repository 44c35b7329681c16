"""The sections of the table, a file for each task: settings, methods and axes."""
