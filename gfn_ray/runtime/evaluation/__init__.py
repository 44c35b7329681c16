"""Evaluates policy and decoders through the actors of a run."""
