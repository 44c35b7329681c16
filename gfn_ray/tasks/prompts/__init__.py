"""A file of prompts and a reward function."""
