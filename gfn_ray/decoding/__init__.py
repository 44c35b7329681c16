"""Baseline decoders of the frozen LM, to compare a policy with.

Decodes under a support: sampling at a temperature, nucleus sampling, greedy decoding, beam search
and diverse beam search; and, guided by log R but without training, the best of several samples,
resampling, Metropolis-Hastings, sequential Monte Carlo and chain-of-thought decoding. Independent
of Ray and of what log R is.
"""
