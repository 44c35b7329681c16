"""Training: what is started when, in the order of a trajectory's way, and a run's phases."""
