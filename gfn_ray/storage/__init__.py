"""Atomic files and serialization of records; independent of what the records contain."""
