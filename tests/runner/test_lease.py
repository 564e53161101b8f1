"""Leases: one writer at a time, on one machine and on two; writers that die with their owner."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import psutil

from her2lib.runner import lease


def test_one_holder_at_a_time_and_numbers_only_grow(tmp_path):
    first = lease.take(tmp_path)
    assert lease.take(tmp_path) is None
    assert lease.holder(tmp_path)["host"] == socket.gethostname()
    first.release()
    assert lease.holder(tmp_path) is None
    second = lease.take(tmp_path)
    assert second.number == first.number + 1
    assert [file.name for file in tmp_path.glob(".lease-*")] == [".lease-2.json"]
    second.release()


def test_of_many_that_try_at_once_one_gets_it(tmp_path):
    start = time.time() + 1.5
    code = (
        "import time; from her2lib.runner import lease; "
        f"time.sleep(max(0, {start} - time.time())); "
        f"got = lease.take({str(tmp_path)!r}); print(got is not None, flush=True); time.sleep(2)"
    )
    tries = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    assert sorted(process.communicate()[0].strip() for process in tries) == ["False"] * 5 + ["True"]


def test_a_dead_owner_here_loses_at_once(tmp_path):
    code = (
        f"import os; from her2lib.runner import lease; lease.take({str(tmp_path)!r}); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    claim = lease.take(tmp_path)
    assert claim.number == 2
    claim.release()


def test_another_machine_is_believed_until_its_heartbeat_is_old(tmp_path):
    file = tmp_path / ".lease-4.json"
    file.write_text(json.dumps({"host": "far", "place": "far away", "processes": [[1, 0.0]]}))
    assert lease.take(tmp_path) is None
    old = time.time() - lease.STALE_SECONDS - 1
    os.utime(file, (old, old))
    claim = lease.take(tmp_path)
    assert claim.number == 5
    claim.release()


def test_a_half_written_lease_holds_until_it_is_old(tmp_path):
    (tmp_path / ".lease-1.json").write_text('{"host": "fa')
    assert lease.take(tmp_path) is None


def test_an_owner_that_was_taken_over_stops_its_writers(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    claim = lease.take(tmp_path)
    writer = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    claim.guard(writer.pid)
    (tmp_path / ".lease-2.json").write_text("{}")
    assert writer.wait(timeout=10) == -signal.SIGKILL
    assert claim.lost
    claim.release()
    assert (tmp_path / ".lease-2.json").read_text() == "{}"


def test_an_owner_that_cannot_refresh_stops_its_writers_before_it_is_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "FENCE_SECONDS", 0.2)
    claim = lease.take(tmp_path)
    writer = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    claim.guard(writer.pid)

    def away(*_):
        raise OSError("the file system is away")

    monkeypatch.setattr(lease, "write_json", away)
    assert writer.wait(timeout=10) == -signal.SIGKILL
    assert claim.lost
    assert lease.FENCE_SECONDS < lease.STALE_SECONDS


def test_abandoned_leases_stop_their_writers(tmp_path):
    claim = lease.take(tmp_path)
    writer = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    claim.guard(writer.pid)
    lease.abandon()
    assert writer.wait(timeout=10) == -signal.SIGKILL
    assert claim.lost
    claim.release()
    assert lease.holder(tmp_path) is None


def test_writers_die_when_their_owner_is_killed(tmp_path):
    code = f"""
        import subprocess, time
        from her2lib.runner import lease
        claim = lease.take({str(tmp_path)!r})
        # a shell with a child of its own, as a kernel with a pool
        writer = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"], start_new_session=True)
        claim.guard(writer.pid)
        print(writer.pid, flush=True)
        time.sleep(1000)
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    group = int(owner.stdout.readline())
    assert len(members(group)) == 2
    assert lease.take(tmp_path) is None
    owner.kill()
    owner.wait()
    assert until(lambda: not members(group))
    assert lease.take(tmp_path) is not None


def living(pid):
    """bool; a zombie that nobody has collected yet is dead."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def members(group):
    """list of the living processes of a process group."""
    pids = []
    for pid in filter(living, psutil.pids()):
        with contextlib.suppress(ProcessLookupError):
            pids += [pid] * (os.getpgid(pid) == group)
    return pids


def until(condition, seconds=20):
    """bool, whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return met
