"""What `make gpu-smoke` checks, on the CPU: it runs, and a fault fails it."""

import sys

import numpy as np
import pytest
import torch

import gpu_smoke
from gpu_smoke import Smoke


def test_learner_and_reward_agree_with_themselves(tiny_dir):
    smoke = Smoke("cpu", str(tiny_dir))
    assert "log q to 0 nats" in smoke.agrees()


def test_a_device_that_computes_something_else_fails(tiny_dir, monkeypatch, capsys):
    learned = Smoke._learned

    def off(self, device):
        found = learned(self, "cpu")
        return (
            found
            if device == "cpu"
            else gpu_smoke.Learned(found.log_reward, found.log_q + np.float64(0.1), found.adapter)
        )

    monkeypatch.setattr(Smoke, "_learned", off)
    smoke = Smoke("cuda", str(tiny_dir))
    smoke.check("agrees", smoke.agrees)
    assert smoke.failed == 1
    assert "FAILED: AssertionError: log q is off by 0.1 nats" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_without_a_gpu_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_smoke.py"])
    assert gpu_smoke.main() == 2
    assert "no CUDA device" in capsys.readouterr().err
