"""Other ways to draw z from the frozen LM, to compare a policy with.

Owns decoding under a support: sampling at a temperature, nucleus sampling, greedy decoding,
beam search and diverse beam search. Knows neither Ray nor rewards.
"""
