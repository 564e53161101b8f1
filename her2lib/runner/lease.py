"""One writer per folder: leases that two machines respect, and processes that die with their owner.

A lease is a file .lease-<number>.json in the folder. Numbers only grow, and the latest decides.
"""

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
# the leases of this process
LIVE: weakref.WeakSet = weakref.WeakSet()


class Lease:
    """The right to write a folder; lost says that it ended before it was released."""

    def __init__(self, folder: Path, number: int):
        self.folder = folder
        self.number = number
        self.file = _lease_file(folder, number)
        self.record = {
            "host": gethostname(),
            "place": _process_space(),
            "processes": [_identity(os.getpid())],
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.lost = False
        # a shell for every process group that must not outlive the lease
        self.guards: list[subprocess.Popen] = []
        self.refreshed = time.monotonic()
        self.lock = threading.Lock()
        self.over = threading.Event()

    def refresh(self, **facts) -> None:
        """None; writes the lease anew, with facts (the cell that is running) for whoever looks."""
        with self.lock:
            if _latest_number(self.folder) > self.number:
                self.lose()
                return
            self.record.update(facts)
            write_json(self.file, self.record)
            self.refreshed = time.monotonic()

    def guard(self, group: int) -> None:
        """None; this process group is killed when the lease ends, also if its owner is killed."""
        # the shell's read returns when the other end of the pipe is gone, whichever way it went;
        # dash refuses `kill -9 -- -GROUP`, so the signal is named
        shell = ["/bin/sh", "-c", f"read line; kill -s KILL -- -{group}"]
        watcher = subprocess.Popen(
            shell,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.guards.append(watcher)
        self.refresh(processes=[*self.record["processes"], _identity(group)])

    def release(self) -> None:
        """None; stops the guarded groups and leaves the folder to the next writer."""
        LIVE.discard(self)
        self.over.set()
        self._stop_guarded()
        with self.lock:
            # the file stays: its number must never be used again
            if _latest_number(self.folder) == self.number:
                write_json(self.file, {**self.record, "released": True})

    def beat(self) -> None:
        """None; refreshes the lease until it is released or lost."""
        while not self.over.wait(BEAT_SECONDS):
            try:
                self.refresh()
            except OSError:  # a file system that is away for a moment
                if time.monotonic() - self.refreshed > FENCE_SECONDS:
                    self.lose()

    def lose(self) -> None:
        """None; stops the guarded groups: another may write from now on."""
        self.lost = True
        self.over.set()
        self._stop_guarded()

    def _stop_guarded(self):
        guards = self.guards
        self.guards = []
        for watcher in guards:
            watcher.stdin.close()
            watcher.wait()


def take(folder: Path) -> Lease | None:
    """Lease of a folder, refreshed until released; None while another process holds it."""
    number = _latest_number(make_folder(folder))
    if number and _read_lease(_lease_file(folder, number), _file_system_time(folder))[1]:
        return None
    lease = Lease(Path(folder), number + 1)
    # numbers only grow, so of all who saw one lease end exactly one creates the next
    try:
        with open(lease.file, "x", encoding="utf-8") as stream:
            stream.write(json.dumps(lease.record))
    except FileExistsError:
        return None
    if _latest_number(folder) != lease.number:  # judged by an old look at the folder
        lease.file.unlink()
        return None
    _lease_file(folder, number).unlink(missing_ok=True)
    LIVE.add(lease)
    threading.Thread(target=lease.beat, daemon=True).start()
    return lease


def abandon() -> None:
    """None; every lease of this process is lost and its writers are stopped."""
    for lease in list(LIVE):
        lease.lose()


def holder(folder: Path) -> dict | None:
    """dict of who holds a folder and what it is doing (host, since, cell …), or None."""
    number = _latest_number(folder)
    if not number:
        return None
    record, holds = _read_lease(_lease_file(folder, number), time.time())
    if not holds:
        return None
    return record


# --- lease files --------------------------------------------------------------------------------


def _read_lease(file, now):
    """(dict, bool): the record of a lease and whether it holds at the time now."""
    try:
        # opening it makes a network file system look again
        with open(file, encoding="utf-8") as stream:
            age = now - os.fstat(stream.fileno()).st_mtime
            text = stream.read()
    except FileNotFoundError:  # somebody took over this moment
        return {}, True
    record = {}
    if text.endswith(("}", "}\n")):  # else half-written, and judged by its age
        record = json.loads(text)
    if record.get("released"):
        return record, False
    if record.get("place") == _process_space():
        return record, any(_is_alive(pid, born) for pid, born in record["processes"])
    return record, age < STALE_SECONDS


def _lease_file(folder, number):
    return Path(folder) / f".lease-{number}.json"


def _latest_number(folder):
    """int, the number of the latest lease of a folder; 0 where there never was one."""
    files = Path(folder).glob(".lease-*.json")
    return max((int(file.stem.rpartition("-")[2]) for file in files), default=0)


def _file_system_time(folder):
    """float, seconds by the clock of the file system: the clocks of two machines need not agree."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as probe:
        return os.fstat(probe.fileno()).st_mtime


# --- processes ----------------------------------------------------------------------------------


def _process_space():
    """str, where process numbers mean something: host, boot and namespace.

    Two containers may share a host name.
    """
    parts = [gethostname()]
    with suppress(OSError):  # not Linux: the host name has to do
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _identity(pid):
    """[number, time of birth] of a process."""
    return [pid, psutil.Process(pid).create_time()]


def _is_alive(pid, born):
    """bool; the birth tells a process from a later one with its number; a zombie writes nothing."""
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - born) < 1
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
