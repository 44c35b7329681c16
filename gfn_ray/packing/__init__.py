"""Log-probabilities along many branches of shared prefixes, in one forward pass."""
