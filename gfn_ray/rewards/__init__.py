"""Posterior targets: untempered log-rewards, most of them from a frozen LM."""
