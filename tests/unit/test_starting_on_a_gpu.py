"""Engines on one GPU start one after another, and one that finds it full says who is there."""

import multiprocessing

import pytest

from gfn_ray.config import SamplerConfig
from gfn_ray.errors import RunFailed, UserError
from gfn_ray.runtime.resources.device_lock import starting_on, visible_devices
from gfn_ray.runtime.resources.gpu_tenants import Tenant, in_words, naming_tenants
from gfn_ray.runtime.resources.placement import bundles
from gfn_ray.tasks.infill.config import InfillJob

LIMIT_S = 60


def hold(devices, end):
    with starting_on(devices, LIMIT_S):
        end.send("held")
        end.recv()


@pytest.fixture
def held(tmp_path, monkeypatch):
    """Another process that is starting on GPUs 0 and 1; what it is sent ends its start."""
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    own, its = context.Pipe()
    process = context.Process(target=hold, args=(["1", "0"], its))
    process.start()
    assert own.poll(LIMIT_S) and own.recv() == "held"
    yield process, own
    process.kill()
    process.join(LIMIT_S)


def test_a_second_engine_waits_for_the_first_on_its_gpu_alone(held):
    _, end = held
    with starting_on(["2"], 0.0):  # another GPU
        pass
    late = pytest.raises(RunFailed, match=r"starting on GPU 1 for 0 s.*runtime\.start_timeout_s")
    with late, starting_on(["1", "2"], 0.0):
        raise AssertionError("two engines start on one GPU")
    end.send("over")
    with starting_on(["0"], LIMIT_S):
        pass


def test_one_that_dies_while_it_starts_makes_room(held):
    process, _ = held
    process.kill()
    with starting_on(["0", "1"], LIMIT_S):
        pass


def test_the_gpus_of_a_process_are_those_that_ray_gave_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1f")
    assert visible_devices() == ["3", "GPU-1f"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == []


def test_tenants_are_named_with_what_they_have():
    found = [Tenant("ray::LearnerActor.step", 17, 30 << 30), Tenant("a process", 18, 1 << 30)]
    learner, other = in_words(found).split(", ")
    assert learner == "ray::LearnerActor.step (pid 17) has 30.0 GiB"
    assert other == "a process (pid 18) has 1.0 GiB"
    assert "NVML shows no process" in in_words([])


def test_without_a_gpu_an_error_stays_as_it_is():
    with pytest.raises(UserError, match=r"^too little$"), naming_tenants([]):
        raise UserError("too little")


@pytest.mark.parametrize(
    ("gpus", "parallel", "share"), [(0.4, 1, 0.36), (1.0, 1, 0.9), (0.4, 2, 0.9)]
)
def test_one_setting_is_rays_share_of_a_gpu_and_vllms(gpus, parallel, share):
    config = SamplerConfig(gpus=gpus, tensor_parallel=parallel)
    assert config.memory_share == pytest.approx(share)


def test_with_tensor_parallel_a_sampler_has_as_many_whole_gpus():
    assert SamplerConfig(tensor_parallel=4).reserved_gpus == 4
    assert SamplerConfig(gpus=0.5).reserved_gpus == 0.5
    one, two = (InfillJob(sampler=SamplerConfig(tensor_parallel=n)) for n in (1, 2))
    assert [b["GPU"] for b in bundles(one, "cuda")] == [0.4, 0.2, 0.4]
    assert [b["GPU"] for b in bundles(two, "cuda")] == [2, 0.2, 0.4]
    with pytest.raises(ValueError, match=r"needs sampler\.backend vllm"):
        SamplerConfig(tensor_parallel=2, backend="transformers")


@pytest.mark.parametrize(("device", "size"), [("cpu", 256 << 20), ("cuda", None)])
def test_the_cache_of_auto_is_what_the_share_leaves_on_a_gpu_alone(device, size):
    assert SamplerConfig().kv_cache_bytes(device) == size
    assert SamplerConfig(kv_cache_mb=32).kv_cache_bytes(device) == 32 << 20
