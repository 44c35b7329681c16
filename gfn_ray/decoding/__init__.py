"""Baseline decoders of the frozen LM, to compare a policy with.

Decodes under a support: sampling at a temperature, nucleus sampling, greedy decoding,
beam search and diverse beam search. Independent of Ray and rewards.
"""
