"""Questions to the label model about rationales: does its label depend on them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfn_ray.evaluation.faithfulness import Probe, derangement, filler
from gfn_ray.models.tokenization import continuation_ids, text_ids
from gfn_ray.seeds import Stream, generator, seed_of
from gfn_ray.trajectory import IntArray, Query

FILLER = " ..."
ANCHOR = "one"  # rationales are tokenized after a word


def rationale_probes(
    queries: Sequence[Query],
    samples: Mapping[str, str],
    answers: Sequence[IntArray],
    tokenizer: Any,
    seed: int,
) -> list[Probe]:
    """samples: a rationale of each sentence, by id. answers: of both labels."""
    rng = generator(seed_of(Stream.FAITHFULNESS, seed, 0))
    dots = int(text_ids(tokenizer, FILLER)[-1])
    written = [continuation_ids(tokenizer, ANCHOR, samples[query.query_id]) for query in queries]
    others = derangement(len(queries), rng)
    found = []
    for query, z, other in zip(queries, written, others, strict=True):
        rest = tuple(one for one in answers if not np.array_equal(one, query.answer_ids))
        read = {
            "direct": z[:0],
            "early": z[: len(z) // 2],
            "whole": z,
            "filler": filler(z, dots),
            "swapped": written[other],
        }
        found += [
            Probe(name, np.concatenate([query.context_ids, text]), query.answer_ids, rest)
            for name, text in read.items()
        ]
    return found
