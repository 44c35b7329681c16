"""Log-probabilities along many branches with shared prefixes, in one forward pass."""
