"""One writer per folder: leases that two machines on one file system respect, and processes that die with their owner."""

import json
import os
import subprocess
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname

import psutil

from her2lib.files import make_folder, write_json

BEAT_SECONDS = 5
STALE_SECONDS = 60  # another machine's lease that was not refreshed for so long may be taken over
FENCE_SECONDS = 30  # an owner that cannot refresh stops its writers, well before another may start
LIVE = weakref.WeakSet()  # the leases of this process


class Lease:
    """The right to write a folder; lost says that it ended before it was released."""

    def __init__(self, folder, number):
        self.folder, self.number, self.file = folder, number, _file(folder, number)
        self.record = {
            "host": gethostname(),
            "place": _place(),
            "processes": [_named(os.getpid())],
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.lost, self.guards, self.beaten = False, [], time.monotonic()
        self.lock, self.over = threading.Lock(), threading.Event()

    def tell(self, **facts):
        """None; refreshes the lease and keeps facts in it (the cell that is running) for whoever looks."""
        with self.lock:
            if _latest(self.folder) > self.number:
                return self.lose()
            self.record.update(facts)
            write_json(self.file, self.record)
            self.beaten = time.monotonic()

    def guard(self, group):
        """None; this process group is killed when the lease ends, also when its owner is killed with -9."""
        # the shell's read returns when the other end of the pipe is gone, whichever way it went
        shell = ["/bin/sh", "-c", f"read line; kill -s KILL -- -{group}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.guards.append(
            subprocess.Popen(shell, stdin=subprocess.PIPE, start_new_session=True, **quiet)
        )
        self.tell(processes=[*self.record["processes"], _named(group)])

    def release(self):
        """None; stops the guarded groups and leaves the folder to the next writer."""
        LIVE.discard(self)
        self.over.set()
        self._stop()
        with self.lock:
            if (
                _latest(self.folder) == self.number
            ):  # the file stays: its number must never be used again
                write_json(self.file, {**self.record, "released": True})

    def beat(self):
        """None; refreshes the lease until it is released or lost."""
        while not self.over.wait(BEAT_SECONDS):
            try:
                self.tell()
            except OSError:  # a file system that is away for a moment
                if time.monotonic() - self.beaten > FENCE_SECONDS:
                    self.lose()

    def lose(self):
        """None; stops the guarded groups: another may write from now on."""
        self.lost = True
        self.over.set()
        self._stop()

    def _stop(self):
        guards, self.guards = self.guards, []
        for guard in guards:
            guard.stdin.close()
            guard.wait()


def take(folder):
    """Lease of a folder, refreshed until released; None while another process holds it."""
    number = _latest(make_folder(folder))
    if number and _look(_file(folder, number), _now(folder))[1]:
        return None
    lease = Lease(Path(folder), number + 1)
    try:  # numbers only grow, so of all who saw one lease end exactly one creates the next
        with open(lease.file, "x", encoding="utf-8") as stream:
            stream.write(json.dumps(lease.record))
    except FileExistsError:
        return None
    if _latest(folder) != lease.number:  # judged by an old look at the folder
        lease.file.unlink()
        return None
    _file(folder, number).unlink(missing_ok=True)
    LIVE.add(lease)
    threading.Thread(target=lease.beat, daemon=True).start()
    return lease


def abandon():
    """None; every lease of this process is lost and its writers are stopped."""
    for lease in list(LIVE):
        lease.lose()


def holder(folder):
    """dict of who holds a folder and what it told (host, since, cell …), or None."""
    number = _latest(folder)
    record, held = _look(_file(folder, number), time.time()) if number else ({}, False)
    return record if held else None


def _look(file, now):
    """(dict, bool): the record of a lease and whether it holds; opening it makes a network file system look again."""
    try:
        with open(file, encoding="utf-8") as stream:
            age, text = now - os.fstat(stream.fileno()).st_mtime, stream.read()
    except FileNotFoundError:  # somebody took over this moment
        return {}, True
    record = (
        json.loads(text) if text.endswith(("}", "}\n")) else {}
    )  # half-written: judged by its age
    if record.get("place") == _place():
        return record, not record.get("released") and any(
            _alive(*named) for named in record["processes"]
        )
    return record, not record.get("released") and age < STALE_SECONDS


def _file(folder, number):
    return Path(folder) / f".lease-{number}.json"


def _latest(folder):
    return max(
        (int(file.stem.rpartition("-")[2]) for file in Path(folder).glob(".lease-*.json")),
        default=0,
    )


def _now(folder):
    """float, seconds by the clock of the file system: the clocks of two machines need not agree."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as probe:
        return os.fstat(probe.fileno()).st_mtime


def _place():
    """str, where process numbers mean something: host, boot and namespace (two containers may share a host name)."""
    parts = [gethostname()]
    with suppress(OSError):  # not Linux: the host name has to do
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            os.readlink("/proc/self/ns/pid"),
        ]
    return " ".join(parts)


def _named(pid):
    return [pid, psutil.Process(pid).create_time()]


def _alive(pid, born):
    """bool; the birth tells a process from a later one with its number, and a zombie writes nothing."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - born) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
