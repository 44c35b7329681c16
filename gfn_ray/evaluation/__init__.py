"""How good the posterior is, before and after, and how a person is told."""
