"""Integers from a known distribution."""
