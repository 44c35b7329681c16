"""The sections of settings that every job has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR = "all-linear"  # PEFT's name for every linear layer except the output head
DType = Literal["float32", "bfloat16"]
AutoDType = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
Sync = Literal["auto", "lora", "merged"]
Quantization = Literal["8bit", "4bit"]
# With fewer importance weights, the fit's prior dominates Pareto k: with 48, one run in ten with
# harmless weights would raise a false alarm (see evaluation/weights.py).
FEWEST_FOR_A_TAIL = 64
Threads = Annotated[int, Field(ge=1)] | Literal["auto"]
CacheSize = Annotated[int, Field(ge=16)] | Literal["auto"]
# Of what a sampler reserves of a GPU, vLLM fills this share: CUDA's own memory comes on top.
FILLED = 0.9
CPU_CACHE_MB = 256


def _decided(dtype: AutoDType) -> DType:
    return "float32" if dtype == "auto" else dtype


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    name: str = Field(
        "smollm2-135m",
        description="Language model: 'smollm2-135m' (embedded, offline), a local directory, "
        "or a Hugging Face causal LM id.",
    )
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of a model of the hub; a run keeps to the commit it "
        "began with.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that the model's repository ships."
    )
    quantization: Quantization | None = Field(
        None,
        description="Bits of a weight of the frozen base in learner and reward actors, with CUDA "
        "and bitsandbytes (gfn_ray[quantized]); policy and target are then those of the quantised "
        "model. none: those of dtype.",
    )


class PolicyConfig(Section):
    lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(
        16, description="Rank of the LoRA adapter; the values vLLM accepts."
    )
    lora_alpha: float = Field(32.0, gt=0, description="LoRA scale: updates are alpha/rank * BA.")
    lora_targets: tuple[str, ...] = Field(
        LORA_TARGETS,
        description="Names of the linear layers that get an adapter; all-linear is every layer but "
        "the head.",
    )
    sync: Sync = Field(
        "auto",
        description="How vLLM takes a new version: as an adapter of its LoRA, or merged into the "
        "model's weights, W + alpha/rank * BA, where a version takes longer to load and a token "
        "less to sample. auto: lora, unless vLLM has none for the architecture, such as GPT-J.",
    )


class SamplerConfig(Section):
    backend: Literal["vllm", "transformers"] = Field(
        "vllm",
        description="Sampling engine: vLLM, or transformers' own forward pass, for models that "
        "vLLM does not run; its cache grows with the batch.",
    )
    trajectories_per_query: int = Field(
        8, ge=2, description="Trajectories K sampled per query, in one group."
    )
    queries_per_call: int = Field(
        8, ge=1, description="Queries in one engine call; larger batches cost less per token."
    )
    tempered_fraction: float = Field(
        0.375, ge=0, le=1, description="Share of a group sampled at a random temperature."
    )
    temperature_low: float = Field(0.7, gt=0, le=2, description="Lowest such temperature.")
    temperature_high: float = Field(1.3, gt=0, le=2, description="Highest such temperature.")
    epsilon_fraction: float = Field(
        0.125, ge=0, le=1, description="Share of a group sampled with epsilon-uniform noise."
    )
    epsilon: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Chance, per token of those, of a uniform legal token.",
    )
    dtype: AutoDType = Field(
        "auto",
        description="Precision of the sampling engine. auto: bfloat16 on CUDA, whose LoRA kernels "
        "take no float32; on a CPU the learner's.",
    )
    threads: Threads = Field(
        "auto",
        description="CPU threads of one sampler actor. auto: on 4 or more cores, a share by the "
        "CPU seconds each stage needs in the first updates (equal shares if max_staleness is 0); "
        "else 1.",
    )
    gpus: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Share of a GPU that one sampler reserves, with CUDA; vLLM fills nine tenths "
        "of it. With tensor_parallel above 1 it is all of each GPU.",
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        description="GPUs of one machine that share one sampler's model, with vLLM; it must divide "
        "the model's attention heads.",
    )
    kv_cache_mb: CacheSize = Field(
        "auto",
        description="KV cache of one engine, in MiB. auto: on a CPU 256, on CUDA what the weights "
        "leave of sampler.gpus.",
    )
    max_batch: int = Field(64, ge=1, description="Trajectories the engine decodes together.")
    max_prompt_tokens: int = Field(
        235, ge=1, description="Longest prompt in tokens; with the longest z this sizes the engine."
    )

    def engine_length(self, longest_z: int) -> int:
        """Tokens that the engine has room for: a prompt, a z and its stop token."""
        return self.max_prompt_tokens + longest_z + 1

    @property
    def reserved_gpus(self) -> float:
        """GPUs that Ray reserves for one sampler."""
        return self.gpus if self.tensor_parallel == 1 else float(self.tensor_parallel)

    @property
    def memory_share(self) -> float:
        """Share of each of its GPUs' memory that the engine fills."""
        return FILLED * self.reserved_gpus / self.tensor_parallel

    def kv_cache_bytes(self, device: str) -> int | None:
        """Size of the KV cache on "cpu" or "cuda"; None for what is left."""
        if self.kv_cache_mb == "auto":
            return CPU_CACHE_MB << 20 if device == "cpu" else None
        return self.kv_cache_mb << 20

    def dtype_on(self, device: str) -> str:
        """Returns the engine's precision on "cpu" or "cuda"."""
        if self.dtype == "auto":
            return "float32" if device == "cpu" else "bfloat16"
        return self.dtype

    @model_validator(mode="after")
    def _consistent(self) -> SamplerConfig:
        if self.temperature_low > self.temperature_high:
            raise ValueError(
                f"sampler.temperature_low ({self.temperature_low}) exceeds "
                f"sampler.temperature_high ({self.temperature_high}); swap them"
            )
        if self.tensor_parallel > 1 and self.backend != "vllm":
            raise ValueError(
                f"sampler.tensor_parallel ({self.tensor_parallel}) needs sampler.backend vllm, not "
                f"{self.backend}"
            )
        if self.tempered_fraction + self.epsilon_fraction > 1:
            raise ValueError(
                f"sampler.tempered_fraction ({self.tempered_fraction}) and "
                f"sampler.epsilon_fraction ({self.epsilon_fraction}) sum to more than 1; lower one"
            )
        return self


class RewardConfig(Section):
    dtype: AutoDType = Field(
        "auto",
        description="Precision of the frozen LM. auto: on CUDA that of the model's file; on a CPU "
        "bfloat16 if it is twice as fast as float32, the target has the likelihood of a text in it "
        "and max_staleness is above 0, else float32.",
    )
    threads: Threads = Field(
        "auto", description="CPU threads of one reward actor; auto: as in the sampler."
    )
    gpus: float = Field(
        0.2,
        gt=0,
        description="GPUs Ray reserves for one reward actor, with CUDA; with 2 or more, of one "
        "machine, the layers of the frozen LM are divided among them.",
    )
    tokens_per_forward: int = Field(
        1024, ge=64, description="Tree tokens packed into one forward pass."
    )
    temperature_start: float = Field(
        1.0,
        gt=0,
        description="Reward temperature T_r at the first update; log R is divided by it.",
    )
    temperature_end: float = Field(
        1.0,
        gt=0,
        description="T_r after annealing and at evaluation: 1 is the posterior itself, lower is "
        "sharper.",
    )
    temperature_steps: int = Field(
        40,
        ge=0,
        description="Updates over which T_r goes linearly from start to end; a shorter run reaches "
        "the end at its last update.",
    )
    length_bonus: float = Field(
        0.0,
        description="Nats for each token of z that updates add to log R and evaluations do not: a "
        "reward that is wrong on purpose, to see what learning from it does to the right one.",
    )

    def temperature(self, step: int, updates: int) -> float:
        """Returns T_r of an update (0-based) in a run of `updates`. The last update has the T_r
        that evaluation uses."""
        annealing = min(self.temperature_steps, updates - 1)
        if step >= annealing:
            return self.temperature_end
        done = step / annealing
        return self.temperature_start + done * (self.temperature_end - self.temperature_start)

    @model_validator(mode="after")
    def _consistent(self) -> RewardConfig:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(
                f"reward.gpus ({self.gpus:g}) is more than one GPU and not a whole number of them; "
                f"use {int(self.gpus)} or {int(self.gpus) + 1}"
            )
        return self

    @property
    def spread(self) -> int:
        """GPUs that share the frozen LM's layers, with CUDA."""
        return max(1, int(self.gpus))

    @property
    def precision(self) -> DType:
        """The dtype; float32 while it is undecided."""
        return _decided(self.dtype)


class ReplayConfig(Section):
    capacity: int = Field(20_000, ge=1, description="Trajectories kept in all.")
    per_query: int = Field(64, ge=1, description="Trajectories kept for one query.")
    priority: Literal["log_reward", "loss", "uniform"] = Field(
        "log_reward",
        description="What makes a trajectory more likely to be replayed than others of its query; "
        "all queries weigh the same.",
    )
    alpha: float = Field(
        0.25, ge=0, description="Sharpness of the priority: 0 is uniform; weight = score ** alpha."
    )
    recency: float = Field(
        0.1,
        ge=0,
        description="Preference for new trajectories, and for queries with new ones: weights "
        "double every 1/recency versions.",
    )
    edit_distance: int | None = Field(
        0,
        ge=0,
        description="Trajectories of a query within this many token edits are duplicates, of which "
        "replay keeps one; none: it keeps all.",
    )
    max_staleness: int | None = Field(
        None,
        ge=0,
        description="Policy versions a replayed trajectory may be behind the current one.",
    )
    max_times_sampled: int | None = Field(
        4, ge=1, description="Times a trajectory may be replayed."
    )
    min_replay: int = Field(
        32, ge=1, description="Scored trajectories the learner waits for before its first update."
    )
    samples_per_insert: float = Field(
        1.5, gt=0, description="Trajectories replayed per trajectory sampled; the rate limit."
    )
    seed_demonstrations: bool = Field(
        False, description="Seed replay with the demonstrations of the training queries."
    )


class LearnerConfig(Section):
    queries_per_step: int = Field(2, ge=1, description="Queries in one update.")
    trajectories_per_query: int = Field(
        8, ge=2, description="Trajectories per query in one update; the root flow needs two."
    )
    lr: float = Field(5e-4, gt=0, description="AdamW's learning rate after warm-up.")
    warmup_steps: int = Field(
        5,
        ge=0,
        description="Updates over which the rate rises linearly; a shorter run reaches lr at its "
        "last update.",
    )
    lr_end: float = Field(
        1.0, gt=0, le=1, description="Rate at the last update as a share of lr; it falls linearly."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    dtype: AutoDType = Field(
        "auto",
        description="Precision of the base weights; LoRA weights stay in float32. auto: as for "
        "reward.dtype.",
    )
    threads: Threads = Field(
        "auto", description="CPU threads of the learner; auto: as in the sampler."
    )
    gpus: float = Field(0.4, gt=0, description="GPUs Ray reserves for the learner, with CUDA.")
    tokens_per_forward: int = Field(
        1024, ge=64, description="Tree tokens packed into one forward pass; gradients accumulate."
    )
    publish_every: int = Field(1, ge=1, description="Updates between two published adapters.")
    shard: bool = Field(
        False,
        description="Spread the frozen base over the learners, layer by layer (FSDP), instead of a "
        "copy for each.",
    )
    checkpoint_activations: bool = Field(
        False,
        description="Compute each layer's activations again in the backward pass instead of "
        "keeping them: less memory, a third more time.",
    )

    @property
    def precision(self) -> DType:
        """The dtype; float32 while it is undecided."""
        return _decided(self.dtype)


class SFTConfig(Section):
    steps: int = Field(
        0,
        ge=0,
        description="Likelihood updates on the demonstrations of training queries, before the "
        "objective's. With --steps 0 they are the whole run: the SFT baseline.",
    )
    batch: int = Field(8, ge=1, description="Demonstrations in one such update.")
    lr: float = Field(5e-4, gt=0, description="AdamW's constant learning rate in them.")


class EncoderConfig(Section):
    name: str = Field(
        "all-minilm-l6-v2",
        description="Sentence encoder for text metrics: 'all-minilm-l6-v2' (embedded, offline), a "
        "local directory, or a Hugging Face id.",
    )


class EvalConfig(Section):
    queries: int = Field(24, ge=1, description="Held-out queries evaluated before and after.")
    samples: int = Field(8, ge=2, description="On-policy samples per query.")
    tempered_samples: int = Field(
        4, ge=2, description="Further samples per query at eval.temperature; they show lost modes."
    )
    temperature: float = Field(
        1.3, gt=0, le=2, description="Sampling temperature of those further samples."
    )
    diagnostic_queries: int = Field(
        6,
        ge=0,
        description="Held-out queries whose importance weights are checked at the start and end of "
        "a run, to tell whether log_z_gap and ess_fraction can be trusted; 0: none.",
    )
    diagnostic_samples: int = Field(
        64,
        ge=FEWEST_FOR_A_TAIL,
        description="On-policy samples per such query, including eval.samples; with fewer, the "
        "tail of the weights shows nothing.",
    )
    simulated_queries: int = Field(
        24,
        ge=0,
        description="Held-out queries for which the frozen LM writes an answer and, with it, an "
        "exact draw of the posterior, to measure the distance to it at the start and end of a run; "
        "0: none.",
    )
    simulated_samples: int = Field(
        4, ge=2, description="On-policy samples per simulated query, beside the exact draw."
    )
    candidates: int = Field(
        8,
        ge=2,
        description="z that task.baselines best_of, resample, mh and smc write for each of "
        "eval.samples, and beginnings of cot.",
    )
    every: int = Field(
        0, ge=0, description="Updates between evaluations; 0: only at the start and the end."
    )
    shown: int = Field(4, ge=0, description="Held-out queries whose samples the report shows.")


class StopConfig(Section):
    metric: str | None = Field(
        None, description="Evaluation metric that can end the run early, such as log_ratio_var."
    )
    below: float | None = Field(None, description="The run ends when that metric is below this.")

    @model_validator(mode="after")
    def _whole(self) -> StopConfig:
        if (self.metric is None) != (self.below is None):
            raise ValueError(
                f"stop.metric ({self.metric}) and stop.below ({self.below}) belong together; "
                "give both or neither"
            )
        return self


class TrackingConfig(Section):
    uri: str = Field(
        "sqlite:///mlflow.db", description="MLflow tracking store or server; loopback or yours."
    )
    experiment: str = Field("gfn_ray", description="MLflow experiment.")


class ProfileConfig(Section):
    seconds: float = Field(
        0.0,
        ge=0,
        description="Seconds of training, from the first update, that are summed up in a table; "
        "their calls, and those before them, are traced to the run's profile.json, for Perfetto or "
        "Chrome; 0: none.",
    )
    then_stop: bool = Field(False, description="Stop training when they are over.")

    @model_validator(mode="after")
    def _consistent(self) -> ProfileConfig:
        if self.then_stop and not self.seconds:
            raise ValueError(
                "profile.then_stop ends training after profile.seconds, which is 0; raise it"
            )
        return self


class CheckpointConfig(Section):
    every: int = Field(25, ge=1, description="Updates between two checkpoints.")
    keep: int = Field(2, ge=1, description="Newest checkpoints kept.")


class RuntimeConfig(Section):
    device: Device = Field("auto", description="Where models run; auto: CUDA if available.")
    cpus_per_actor: float = Field(
        0.5,
        gt=0,
        description="CPUs Ray reserves per actor with a model; below 1, two cores serve three.",
    )
    placement: Literal["pack", "spread"] = Field(
        "pack",
        description="Where actors with models go on a cluster: pack onto as few machines as "
        "possible, spread over as many.",
    )
    start_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Time limit for the cluster to have room for all actors, and then for an actor "
        "to load its model, in seconds.",
    )
    call_timeout_s: float = Field(
        300.0, gt=0, description="Time limit of one remote call, in seconds."
    )
    max_restarts: int = Field(
        20,
        ge=0,
        description="Restarts, in all, of actors that died or exceeded a time limit, before the "
        "run ends.",
    )
    max_nonfinite_batches: int = Field(
        5,
        ge=1,
        description="Batches skipped in a row for a NaN or infinite loss, gradient or log R before "
        "the run ends; above replay.max_times_sampled, one z alone cannot end it.",
    )
    log_every: int = Field(5, ge=1, description="Updates between two plain progress lines.")
