"""A run's own Ray, with a vLLM engine in it: who can reach it, and who may use it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import psutil
import pytest
import ray
from transformers import AutoConfig

from gfn_ray.config import ModelConfig, PolicyConfig, SamplerConfig
from gfn_ray.runtime.actors.sampler_actor import SamplerActor
from gfn_ray.runtime.resources.cluster import connected
from gfn_ray.sampling.environment import thread_environment, vllm_environment
from gfn_ray.tasks.infill.config import InfillJob
from testing.makers import make_support
from testing.sockets import listening

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

LIMIT_S = 300


@pytest.fixture(scope="module")
def cluster(tiny_dir):
    """The address of a Ray that was started as a job starts it, with an engine at work.

    This module imported Ray before gfn_ray, as a program of a user's may.
    """
    job = InfillJob(
        model=ModelConfig(name=str(tiny_dir)),
        policy=PolicyConfig(lora_rank=8),
        sampler=SamplerConfig(kv_cache_mb=32, max_batch=8, max_prompt_tokens=64, tensor_parallel=2),
    )
    support = make_support(vocab_size=AutoConfig.from_pretrained(tiny_dir).vocab_size)
    variables = thread_environment(1) | vllm_environment("cpu")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
            patch.delenv(name, raising=False)
        with connected():
            remote = ray.remote(SamplerActor).options(runtime_env={"env_vars": variables})
            actor = remote.remote(job, "cpu", None, support, [], None)
            ray.get(actor.load.remote(), timeout=LIMIT_S)
            yield ray.get_runtime_context().gcs_address


def test_every_socket_that_listens_is_on_loopback(cluster):
    me = psutil.Process()
    found = listening([me, *me.children(recursive=True)])
    for part in ("gcs_server", "raylet", "ray::SamplerActor"):
        assert any(part in name for name in found), f"{part} has no socket: {list(found)}"
    outside = {
        name: [str(one) for one in addresses if not one.is_loopback]
        for name, addresses in found.items()
        if not all(one.is_loopback for one in addresses)
    }
    assert outside == {}


GROUP_OF_ONE = """
import psutil, torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
print(*{one.laddr.ip for one in psutil.Process().net_connections("tcp") if one.status == "LISTEN"})
"""


def test_an_engine_is_on_loopback_whatever_the_machines_name_stands_for(tmp_path):
    """vLLM's process groups listen where Gloo does: where a name leads to, unless it is told."""
    name, outside = socket.gethostname(), outer_address()
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost\n{outside} {name}\n")
    own_hosts = f"mount --bind {tmp_path}/hosts /etc/hosts && exec "

    def listens_on(environment):
        words = ["unshare", "--map-root-user", "--mount", "sh", "-c", own_hosts + '"$@"', "sh"]
        done = subprocess.run(
            [*words, sys.executable, "-c", GROUP_OF_ONE],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        if done.returncode:
            pytest.skip(f"this account may not give a process a view of its own: {done.stderr}")
        return set(done.stdout.split())

    assert listens_on({"GLOO_SOCKET_IFNAME": ""}) == {outside}
    assert listens_on(vllm_environment("cpu")) == {"127.0.0.1"}


def outer_address():
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    pytest.skip("this machine has no address but loopback")


def test_whoever_has_no_token_is_refused(cluster):
    """Ray's own protocol: an empty GetAllNodeInfo asks which machines there are."""
    with grpc.insecure_channel(cluster) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        with pytest.raises(grpc.RpcError) as refused:
            ask(b"", timeout=60)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        token = (Path.home() / ".ray" / "auth_token").read_text().strip()
        assert ask(b"", timeout=60, metadata=[("authorization", f"Bearer {token}")])


def test_no_other_account_can_read_the_token(cluster):
    assert (Path.home() / ".ray").stat().st_mode & 0o077 == 0
