"""What a run would need and do, before it starts: memory, pace, and the best division of GPUs."""
