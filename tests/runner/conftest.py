"""A project of its own for every test of the runner."""

import pytest
from examples import move_project


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Path of an empty project that this process, its workers and its kernels take for theirs."""
    move_project(monkeypatch, tmp_path)
    for name, value in (
        ("HER2_ROOT", tmp_path),
        ("HER2_REPORTS", tmp_path / "reports"),
        ("OMP_NUM_THREADS", "1"),
    ):
        monkeypatch.setenv(name, str(value))
    return tmp_path
