"""Updates by a trainer of TRL on the prompts of infilling, in a process of its own.

    python -m peer.trl_updates CASE

CASE: a JSON file with the fields of Case. Each update is reported as a JSON line in the case's
`rows`: its number, the mean tokens of its z, and CPU seconds so far of sampling and of rewards.
TRL does what it does by default, except where its defaults would cost it time here: no gradient
checkpoints, no bfloat16 without matrix units, one batch an update.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """trainer: RLOO or GRPO. reward: "length", of the text and nearly free, or "posterior".
    prompts: text, with the token ids that gfn_ray has for it, its context and its answer. threads:
    of torch."""

    trainer: str
    reward: str
    model: str
    dtype: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    prompts: list[dict[str, Any]]
    queries: int
    per_query: int
    longest: int
    lr: float
    updates: int
    threads: int
    rows: str

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(file: Path) -> Case:
        return Case(**json.loads(file.read_text()))


class CpuTimer:
    """CPU seconds of this process, all threads, inside the functions that it has wrapped."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - started

        timed.__name__ = function.__name__
        return timed


def length(completions: Sequence[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def main(file: Path) -> None:
    # TRL looks for vLLM and imports it, an unsupported version with a warning at every use; it
    # samples with transformers here, and a process of its own would not have vLLM's memory.
    sys.modules["vllm"] = None  # type: ignore[assignment]
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    from peer.posterior_reward import PosteriorReward

    case = Case.read(file)
    torch.set_num_threads(case.threads)

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(case.model, dtype=getattr(torch, case.dtype))

    tokenizer = AutoTokenizer.from_pretrained(case.model, padding_side="left")
    for row in case.prompts:
        if tokenizer(row["prompt"])["input_ids"] != row["own_ids"]:
            raise ValueError(f"TRL would read other tokens than gfn_ray: {row['prompt']!r}")
    sampling, rewarding = CpuTimer(), CpuTimer()
    plain = length if case.reward == "length" else PosteriorReward(load().requires_grad_(False))
    batch = case.queries * case.per_query
    kinds = {
        "RLOO": (trl.RLOOTrainer, trl.RLOOConfig),
        "GRPO": (trl.GRPOTrainer, trl.GRPOConfig),
    }
    trainer_kind, config_kind = kinds[case.trainer]
    trainer = trainer_kind(
        model=load(),
        reward_funcs=rewarding.around(plain),
        args=config_kind(
            output_dir=str(file.parent / "trl"),
            per_device_train_batch_size=batch,
            num_generations=case.per_query,
            max_completion_length=case.longest,
            max_steps=case.updates,
            learning_rate=case.lr,
            lr_scheduler_type="constant",
            use_cpu=not torch.cuda.is_available(),
            bf16=False,  # autocast of float32 weights; `dtype` says what they are
            gradient_checkpointing=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=1,
        ),
        train_dataset=Dataset.from_list(case.prompts),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=case.rank,
            lora_alpha=case.alpha,
            target_modules=list(case.targets),
            task_type="CAUSAL_LM",
        ),
    )
    trainer.model.generate = sampling.around(trainer.model.generate)

    class Report(TrainerCallback):
        """After each update, when its metrics are logged."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs is None or "completions/mean_length" not in logs:
                return  # the summary after the last update
            row = {
                "phase": "train",
                "step": state.global_step,
                "tokens": logs["completions/mean_length"],
                "sampling": sampling.seconds,
                "rewarding": rewarding.seconds,
            }
            with Path(case.rows).open("a") as out:
                out.write(json.dumps(row) + "\n")

    trainer.add_callback(Report())
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
