"""A vLLM engine that samples trajectories from the current policy.

Owns the engine, its settings and the turns of policy and tool. `exploration` decides what to
propose, `support_processor` what is legal, `tools` what a tool answers, `weights` which weights are
live. With LoRA every request carries the adapter, because vLLM silently mixes up base and LoRA rows
of a batch on CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from vllm import LLM, SamplingParams

from gfn_ray.config import PolicyConfig, SamplerConfig
from gfn_ray.errors import UserError, cut
from gfn_ray.models.loading import architectures
from gfn_ray.policy.adapter import Adapter
from gfn_ray.sampling import cpu_blocks
from gfn_ray.sampling.architectures import choose_sync, no_adapter, says_no_adapter
from gfn_ray.sampling.backend import SampleRequest
from gfn_ray.sampling.partial_sequence import PartialSequence
from gfn_ray.sampling.support_processor import SupportConfig, SupportProcessor
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.sampling.weights.lora import AdapterSwap
from gfn_ray.sampling.weights.merged import MergedSwap
from gfn_ray.sampling.weights.swap import WeightSwap
from gfn_ray.support import Support
from gfn_ray.trajectory import Trajectory

_NO_ROOM = ("KV cache memory", "memory for the cache blocks")
"""vLLM's messages for a cache too small for one request."""

_UNDIVIDED = "divisible by tensor parallel size"
_TAKEN = "Free memory on device"
_LONGEST_REASON = 200  # characters; vLLM lists every architecture it knows


class SamplingEngine:
    """vLLM under the policy's newest weights. Call `load` before `sample`.

    tool: answers when the policy calls it. steps: of the engine in the latest `sample`, each with
    a token for every z under way. tool_calls, tool_errors: calls in it, and those it could not
    answer.
    """

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
        tool: ToolLoop | None = None,
    ) -> None:
        cpu = device == "cpu"
        by_device: dict[str, Any] = (
            {
                "block_size": cpu_blocks.install(),
                # For a prompt split in chunks, vLLM rewinds the request's generator by an offset,
                # which torch supports only on CUDA: on CPU the engine would die.
                "enable_chunked_prefill": False,
            }
            if cpu
            else {"gpu_memory_utilization": sampler.memory_share}
        )
        sync = choose_sync(policy.sync, architectures(model_path, trust_remote_code))
        swap: type[WeightSwap] = MergedSwap if sync == "merged" else AdapterSwap
        self.support = support
        self._tool = tool
        self.steps = self.tool_calls = self.tool_errors = 0
        self._stops = set(support.stop_ids.tolist())
        self._triggers = set(tool.trigger_ids) if tool else set()
        options: dict[str, Any] = dict(
            model=model_path,
            dtype=sampler.dtype_on(device),
            seed=seed,
            trust_remote_code=trust_remote_code,
            load_format="safetensors",  # by default vLLM falls back to pickled weights
            skip_tokenizer_init=True,
            enforce_eager=cpu,
            max_model_len=sampler.engine_length(support.max_len),
            max_num_seqs=sampler.max_batch,
            logits_processors=[SupportProcessor],
            additional_config=SupportConfig(support),
            # Log-probs after the support's mask; at temperature 1 they are log q.
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            kv_cache_memory_bytes=sampler.kv_cache_bytes(device),
            tensor_parallel_size=sampler.tensor_parallel,
            # In a placement group vLLM would choose Ray, which takes one GPU a bundle.
            distributed_executor_backend="mp" if sampler.tensor_parallel > 1 else None,
            **by_device,
            **swap.engine_options(policy),
        )
        try:
            self._llm = LLM(**options)
        except ValueError as error:
            if (advice := _advice(str(error), sampler, device, options["max_model_len"])) is None:
                raise
            raise UserError(advice) from error
        self.swap = swap(self._llm)
        self._lora: Any = None
        self.version = -1

    def load(self, adapter: Adapter) -> None:
        """Makes an adapter live, unless it already is."""
        if adapter.version != self.version:
            self._lora = self.swap.load(adapter)
            self.version = adapter.version

    @property
    def processes(self) -> list[BaseProcess]:
        """Those of a tensor-parallel model, which also runs in this process's children."""
        executor = self._llm.llm_engine.engine_core.engine_core.model_executor
        return [worker.proc for worker in getattr(executor, "workers", [])]

    def close(self) -> None:
        """Frees the engine; `sample` cannot be called afterwards."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm, self.swap

    def sample(self, requests: Sequence[SampleRequest]) -> list[Trajectory]:
        """Samples all trajectories of all requests, unscored, in order.

        A z that calls the tool gets its answer and continues at once, in parallel with the others.
        Raises RunFailed if the support does not allow an answer.
        """
        if self.version < 0:
            raise RuntimeError("sample() before load(): the engine has no adapter yet")
        self.steps = self.tool_calls = self.tool_errors = 0
        sequences = [
            PartialSequence(request.query, plan) for request in requests for plan in request.plans
        ]
        engine = self._llm.llm_engine
        under_way = {
            self._ask(str(number), sequence): sequence for number, sequence in enumerate(sequences)
        }
        try:
            while engine.has_unfinished_requests():
                self.steps += 1
                for output in engine.step():
                    if output.finished:
                        sequence = under_way.pop(output.request_id)
                        if self._extend(sequence, output.outputs[0]):
                            under_way[self._ask(output.request_id, sequence)] = sequence
        finally:
            engine.abort_request(list(under_way))
        return [sequence.trajectory(self.support, self.version) for sequence in sequences]

    def _ask(self, name: str, sequence: PartialSequence) -> str:
        """Requests the next turn of a z from the engine; returns the request's name."""
        prompt = [*sequence.query.prompt_ids.tolist(), *sequence.token_ids]
        self._llm.llm_engine.add_request(
            name, {"prompt_token_ids": prompt}, self._params(sequence), lora_request=self._lora
        )
        return name

    def _params(self, sequence: PartialSequence) -> SamplingParams:
        plan = sequence.plan
        return SamplingParams(
            temperature=plan.temperature,
            seed=sequence.seed,
            max_tokens=self.support.max_len - len(sequence.token_ids),
            stop_token_ids=sorted(self._stops | self._triggers),
            ignore_eos=True,  # only the support decides what ends z
            detokenize=False,
            logprobs=0,
            extra_args={
                "epsilon": plan.epsilon,
                "epsilon_seed": plan.seed,
                # Copy: the sequence grows while the engine may still hold this list.
                "z": list(sequence.token_ids),
            },
        )

    def _extend(self, sequence: PartialSequence, completion: Any) -> bool:
        """Appends one turn of the policy and the tool answer it calls for; False if z is
        complete."""
        sequence.turn += 1
        tokens = list(completion.token_ids)
        last = tokens[-1]
        steps = zip(completion.logprobs, tokens, strict=True)
        log_probs = [step[token].logprob for step, token in steps]
        sequence.stopped = last in self._stops
        if sequence.stopped:
            tokens.pop()
            sequence.log_stop = log_probs.pop()
        sequence.append(tokens, log_probs)
        if self._tool is None or last not in self._triggers:
            return False
        z_ids = np.array(sequence.token_ids, dtype=np.int32)
        answer = self._tool.answer_ids(sequence.query.prompt_ids, z_ids)
        self.tool_calls += 1
        self.tool_errors += answer.failed
        sequence.append_by_tool(answer.token_ids.tolist())
        return len(sequence.token_ids) < self.support.max_len


def _advice(error: str, sampler: SamplerConfig, device: str, longest: int) -> str | None:
    """The message for what vLLM raises when it starts; None if no setting changes it. longest:
    tokens of prompt plus z."""
    if says_no_adapter(error):
        return no_adapter(cut(error, _LONGEST_REASON))
    if _UNDIVIDED in error:
        return (
            f"sampler.tensor_parallel ({sampler.tensor_parallel}) does not divide the model: "
            f"{cut(error, _LONGEST_REASON)}"
        )
    if _TAKEN in error:
        return (
            f"a sampler fills {sampler.memory_share:.0%} of its GPU (nine tenths of sampler.gpus), "
            f"which is not free: {cut(error, _LONGEST_REASON)}; lower sampler.gpus, or the "
            "tokens_per_forward of what shares the GPU"
        )
    if any(words in error for words in _NO_ROOM):
        setting, value = (
            ("sampler.gpus", sampler.gpus)
            if sampler.kv_cache_bytes(device) is None
            else ("sampler.kv_cache_mb", sampler.kv_cache_mb)
        )
        return (
            f"{setting} ({value}) leaves the engine's KV cache no room for one prompt with its z, "
            f"{longest} tokens in total; raise it, or lower sampler.max_prompt_tokens "
            f"({sampler.max_prompt_tokens})"
        )
    return None
