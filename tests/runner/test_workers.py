"""Workers: GPUs and cores shared out, sockets that fit everywhere."""

import os
from pathlib import Path

import pytest

from her2lib.networks.models import BACKBONES
from her2lib.runner import workers
from her2lib.study.keys import NETWORKS


def test_each_worker_sees_one_gpu_and_its_share_of_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(24)), raising=False)
    environments = workers.slots(per_gpu=3)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in environments] == ["2", "5"] * 3
    assert {slot["OMP_NUM_THREADS"] for slot in environments} == {"4"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert workers.slots() == [
        dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "24")
    ]
    assert len(workers.slots(4)) == 4


def test_gpus_are_counted_without_torch(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: one'\necho '  MIG 1g: part'\necho 'GPU 1: two'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in workers.slots()] == ["0", "1"]


def test_memory_of_a_training_grows_with_the_patch_and_never_below_its_weights():
    small, large = (workers.memory_gb("resnet18", side_px=side_px) for side_px in (224, 448))
    assert large - small == pytest.approx(
        3 * 32 * 22.2e-3
    )  # four times the pixels, so three times the activations more
    assert workers.memory_gb("vit_b16", side_px=224, batch=0) == pytest.approx(0.6 + 16 * 85.8e-3)
    assert set(NETWORKS) == set(BACKBONES)


def test_a_long_temporary_folder_does_not_break_the_sockets(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr(workers.tempfile, "tempdir", str(deep))
    with workers._sockets() as config:
        assert len(config.KernelManager.connection_file) < 60
        assert Path(config.KernelManager.connection_file).parent.stat().st_mode & 0o077 == 0
