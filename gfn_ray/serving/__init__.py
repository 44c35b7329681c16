"""Serves a trained adapter: samples and answers from its directory, without Ray."""
