"""Posterior targets: untempered log-rewards that a frozen LM gives."""
