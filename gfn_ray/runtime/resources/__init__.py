"""Where actors run, and on how many cores."""
