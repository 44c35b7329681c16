"""What tests and benchmarks share: the tiny model, makers of data, and jobs to be watched, spoiled
and killed. Knows neither of them."""
