"""A random two-layer Llama with a real tokenizer: small enough for every test.

It is no language model, only a distribution with structure: far from uniform, dependent
on its context, the same for the same seed. transformers and vLLM both load it. head_dim
is 32 because vLLM's CPU attention refuses less.
"""

from __future__ import annotations

import itertools
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gfn_ray.config import DataConfig
from gfn_ray.data.stories import load_stories

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 1000  # tokens aimed at; fewer where the text has too few pairs to merge
SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>")


def tiny_model(directory: Path, seed: int = 0, **changes: int) -> Path:
    """Build the model of this seed and save it with its tokenizer into the directory.

    changes: of its configuration, such as num_hidden_layers.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    shape = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
        **changes,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        intermediate_size=128,
        **shape,
        num_attention_heads=4,
        num_key_value_heads=2,  # grouped, as in SmolLM2
        head_dim=32,
        tie_word_embeddings=False,
        initializer_range=0.3,  # ten times the usual: logits spread over several nats
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def tiny_gpt(directory: Path, kind: Literal["gpt2", "gptj"] = "gpt2") -> Path:
    """The same of an architecture that vLLM has no adapter for."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = _tokenizer()
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        n_embd=64,
        n_layer=2,
        n_head=2,
        n_positions=512,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
        **({"rotary_dim": 16} if kind == "gptj" else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in the manner of GPT-2: any text goes there and back unchanged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    bos, eos, pad = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
    )


def _texts() -> list[str]:
    if (resources.files("gfn_ray.data") / "stories.csv").is_file():
        return [" ".join(story.sentences) for story in load_stories(DataConfig())]
    return _built_in_texts()


def _built_in_texts() -> list[str]:
    people = ("Anna", "Ben", "Clara", "David", "Emma", "The teacher", "My sister", "A stranger")
    deeds = (
        "walked to the {thing} before {time}.",
        "was afraid of the {thing}, but went there {time}.",
        "bought a {thing} for a friend {time}.",
        "couldn't find the {thing} and started to cry!",
        'asked: "Who has taken my {thing}?"',
        "felt happy because the {thing} was finally ready {time}.",
    )
    things = ("old house", "bicycle", "birthday cake", "library", "red umbrella", "wedding dress")
    times = ("breakfast", "the storm", "school", "her birthday in 1998", "it was too late")
    return [
        f"{who} {deed.format(thing=thing, time=times[number % len(times)])} Then they went home."
        for number, (who, deed, thing) in enumerate(itertools.product(people, deeds, things))
    ]
