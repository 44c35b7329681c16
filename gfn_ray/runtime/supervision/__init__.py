"""Remote calls and what they survive: a lost actor, a late answer, data that is gone."""
