"""gfn_ray's running job beside the trainer that a user would pick instead."""
