"""A vLLM engine that samples trajectories from the current policy.

Owns the engine and its settings; what to propose comes from `exploration`, what is legal
from `support_processor`, which weights are live from `adapter_swap`. Every request carries
the adapter, since base and LoRA rows in one batch are silently mixed up on CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from vllm import LLM, SamplingParams

from gfn_ray.config import PolicyConfig, SamplerConfig
from gfn_ray.policy.adapter import Adapter
from gfn_ray.sampling import cpu_lora
from gfn_ray.sampling.adapter_swap import EXTENSION, AdapterSwap
from gfn_ray.sampling.exploration import ProposalPlan
from gfn_ray.sampling.support_processor import CONFIG_KEY, SupportProcessor
from gfn_ray.support import Support
from gfn_ray.trajectory import Query, Trajectory

# vLLM's CPU attention takes multiples of 32; smaller blocks share more of a prompt.
CPU_BLOCK_SIZE = 32


@dataclass(frozen=True)
class SampleRequest:
    """One group: how to propose each trajectory of a query."""

    query: Query
    plans: list[ProposalPlan]


class SamplingEngine:
    """vLLM with one LoRA slot. Not usable before the first `load`."""

    def __init__(
        self,
        model_path: str,
        support: Support,
        sampler: SamplerConfig,
        policy: PolicyConfig,
        *,
        device: str,
        seed: int,
        trust_remote_code: bool = False,
    ) -> None:
        cpu = device == "cpu"
        memory: dict[str, Any] = (
            {"kv_cache_memory_bytes": sampler.kv_cache_mb << 20, "block_size": CPU_BLOCK_SIZE}
            if cpu
            else {"gpu_memory_utilization": sampler.gpu_memory_fraction}
        )
        if cpu:
            cpu_lora.install()
        self._support = support
        self._llm = LLM(
            model=model_path,
            dtype=_dtype(sampler.dtype, device),
            seed=seed,
            trust_remote_code=trust_remote_code,
            skip_tokenizer_init=True,
            enforce_eager=cpu,
            max_model_len=sampler.max_prompt_tokens + support.max_len + 1,
            max_num_seqs=sampler.max_batch,
            enable_lora=True,
            max_loras=1,
            max_lora_rank=policy.lora_rank,
            lora_target_modules=list(policy.lora_targets),
            worker_extension_cls=EXTENSION,
            logits_processors=[SupportProcessor],
            additional_config={CONFIG_KEY: support.to_wire()},
            # Log-probs after the support's mask: at temperature 1 they are log q itself.
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            **memory,
        )
        self._swap = AdapterSwap(self._llm)
        self._lora: Any = None
        self.version = -1

    def load(self, adapter: Adapter) -> None:
        """Makes an adapter live, unless it already is."""
        if adapter.version != self.version:
            self._lora = self._swap.load(adapter)
            self.version = adapter.version

    def close(self) -> None:
        """Frees what the engine holds; nothing can be sampled any more."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm, self._swap

    def sample(self, requests: Sequence[SampleRequest]) -> list[Trajectory]:
        """All trajectories of all requests in one engine call, unscored, in order."""
        if self._lora is None:
            raise RuntimeError("sample() before load(): the engine has no adapter yet")
        flat = [(request.query, plan) for request in requests for plan in request.plans]
        outputs = self._llm.generate(
            [{"prompt_token_ids": query.prompt_ids.tolist()} for query, _ in flat],
            [self._params(plan) for _, plan in flat],
            lora_request=self._lora,
            use_tqdm=False,
        )
        return [
            self._trajectory(query, plan, output.outputs[0])
            for (query, plan), output in zip(flat, outputs, strict=True)
        ]

    def _params(self, plan: ProposalPlan) -> SamplingParams:
        return SamplingParams(
            temperature=plan.temperature,
            seed=plan.seed,
            max_tokens=self._support.max_len,
            stop_token_ids=self._support.stop_ids.tolist(),
            ignore_eos=True,  # the support alone says what ends z
            detokenize=False,
            logprobs=0,
            extra_args={"epsilon": plan.epsilon, "epsilon_seed": plan.seed},
        )

    def _trajectory(self, query: Query, plan: ProposalPlan, completion: Any) -> Trajectory:
        tokens = np.array(completion.token_ids, dtype=np.int32)
        stopped = completion.finish_reason == "stop"
        if stopped:
            tokens = tokens[:-1]
        log_pf = log_stop = float("nan")
        if plan.proposal == "policy":
            steps = zip(completion.logprobs, completion.token_ids, strict=True)
            each = [step[token].logprob for step, token in steps]
            # At max_len only stopping is legal, and vLLM does not sample it.
            log_stop = each.pop() if stopped else 0.0
            log_pf = sum(each)
        return Trajectory(
            query_id=query.query_id,
            token_ids=tokens,
            tool_mask=np.zeros(len(tokens), dtype=np.bool_),
            terminable=self._support.terminable(tokens),
            policy_version=self.version,
            proposal=plan.proposal,
            temperature=plan.temperature,
            epsilon=plan.epsilon,
            stopped=stopped,
            sampler_log_pf=log_pf,
            sampler_log_stop=log_stop,
        )


def _dtype(setting: str, device: str) -> str:
    if setting == "auto":
        return "float32" if device == "cpu" else "bfloat16"
    return setting
