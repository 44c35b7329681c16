"""Sums with a calculator."""
