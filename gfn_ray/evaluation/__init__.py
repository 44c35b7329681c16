"""Measures a policy against its posterior, before and after training, and reports it."""
