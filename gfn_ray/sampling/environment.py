"""Environment variables that vLLM reads on import.

They must be set before the first `import vllm`, hence in Ray's runtime_env.
"""

from __future__ import annotations


def vllm_environment(device: str) -> dict[str, str]:
    """Variables for a process that runs one vLLM engine on "cpu" or "cuda"."""
    common = {
        # Run the engine in the actor's process, so that adapters arrive without a copy.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        # The V2 runner accepts only its own kind of logits processor.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "DO_NOT_TRACK": "1",
        # vLLM's process groups have one member each, and would otherwise listen on the address
        # that this machine's name resolves to.
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_HOST_IP": "127.0.0.1",
        # Of the workers of a tensor-parallel engine: a forked one would inherit locks of threads
        # that it does not have.
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    }
    if device == "cuda":
        return common
    return {
        **common,
        # Otherwise a log-prob kernel is compiled for seconds at the first call.
        "TORCHDYNAMO_DISABLE": "1",
        # Do not pin threads to cores, which starves actors that share a machine.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }


def thread_environment(threads: int) -> dict[str, str]:
    """OpenMP settings of an actor that shares cores: idle threads must sleep, not spin."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
