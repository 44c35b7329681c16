"""Where a run goes and what its object store holds, before any actor starts."""

import pytest

from gfn_ray.config import RuntimeConfig
from gfn_ray.errors import UserError
from gfn_ray.models.loading import body_layers, load_causal_lm
from gfn_ray.policy.adapter import add_adapter, read_adapter
from gfn_ray.runtime.resources.cluster import choose_device, store_bytes
from gfn_ray.tasks.infill.config import InfillJob


def test_the_object_store_has_room_for_every_adapter_that_samples_hold_on_to(tiny_dir):
    job = InfillJob(max_staleness=6)
    base = load_causal_lm(str(tiny_dir), "float32", "cpu", False)
    adapter = read_adapter(add_adapter(base, job.policy, 0), version=0)
    size = sum(array.nbytes for array in adapter.tensors.values())
    layers = body_layers(str(tiny_dir), False)
    small = store_bytes(job.model_copy(update={"max_staleness": 0}), layers)
    assert store_bytes(job, layers) - small == 6 * size


def device(wanted, *, grows):
    said = []
    job = InfillJob(runtime=RuntimeConfig(device=wanted))
    return choose_device(job, 0.0, grows=grows, say=said.append), said


def test_a_run_on_cuda_waits_for_gpus_where_they_may_come_and_is_refused_where_not():
    assert device("cuda", grows=True) == ("cuda", [])
    with pytest.raises(UserError, match=r"this machine has no GPU; use cpu or auto"):
        device("cuda", grows=False)


def test_a_run_that_may_choose_takes_cpus_and_says_so_where_gpus_may_come(monkeypatch):
    assert device("auto", grows=False) == ("cpu", [])
    monkeypatch.setattr("torch.version.cuda", "13.0")
    chosen, (line,) = device("auto", grows=True)
    assert chosen == "cpu" and "--runtime.device cuda waits for one" in line
