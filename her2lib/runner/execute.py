"""Execute a study's notebooks: papermill over Dask, leases, retries, failures kept. Imports no torch."""

import shutil
import time
from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from her2lib.files import read_json, write_json
from her2lib.runner import lease
from her2lib.runner import plan as plan_
from her2lib.runner import workers as workers_
from her2lib.runner.progress import Board, doing, sentence
from her2lib.study.fingerprints import environment

LOOK_SECONDS, LATER_SECONDS = (
    0.1,
    2,
)  # between two looks at what has finished; before asking again for what another command executes
BAD = ("failed", "blocked")


@dataclass(frozen=True)
class Summary:
    """rows of task, state (done, skipped, failed, blocked, planned), seconds, tries, cell, error."""

    rows: list

    @property
    def exit_code(self):
        """int, 0 when everything asked for is complete, else 1."""
        return int(any(row["state"] in BAD for row in self.rows))

    def __str__(self):
        counts = Counter(row["state"] for row in self.rows)
        bad = [sentence(row) for row in self.rows if row["state"] in BAD]
        return "\n".join([", ".join(f"{n} {state}" for state, n in counts.items()) + ".", *bad])


def execute(
    study,
    *,
    only=None,
    force=False,
    dry_run=False,
    retries=2,
    workers=None,
    per_gpu=1,
    scheduler=None,
    insecure=False,
    progress=True,
):
    """Summary after executing what is not complete; the same call goes on where an earlier one was stopped."""
    if scheduler and not scheduler.startswith(("tls://", "wss://")) and not insecure:
        raise plan_.RunError(
            f"{scheduler} is not encrypted, and Dask runs whatever it is sent: use tls:// or say --insecure."
        )
    tasks, table = (
        plan_.choose_tasks(plan_.plan_tasks(study), only),
        plan_.estimate(study, only=only, force=force),
    )
    if progress or dry_run:
        print(plan_._announce(table, whole=dry_run) + plan_._shared(study, per_gpu), flush=True)
    if dry_run:
        return Summary([_row(task, "planned") for task in tasks])
    rows, board, failures = {}, Board(len(tasks), progress), study.folder_of("failures.json")
    with closing(board), _cluster(table, workers, per_gpu, scheduler) as (client, env):
        try:
            for row in _drive(
                client, tasks, rows, retries=retries, force=force, env=env, show=board.show
            ):
                board.settle(row)
                _keep(failures, rows)  # at once: the report's notebook reads it
        finally:
            lease.abandon()  # Ctrl-C: what a thread of this process executes stops now
    return Summary([rows[task.name] for task in tasks])


def run_task(task, *, attempt=1, force=False, env=None):
    """dict, the row of one attempt in a kernel of its own, kept as notebook.ipynb or failed.ipynb; busy when not ours to do."""
    claim = lease.take(task.folder)
    if claim is None:
        return _row(task, "busy")
    try:
        if not force and (receipt := plan_.is_complete(task)):  # another command was quicker
            return _row(task, "skipped", **receipt)
        _clear(task.folder, everything=force and attempt == 1)
        cells, started, stands_on = (
            plan_._cells(task.notebook),
            datetime.now(UTC),
            plan_._stands_on(task),
        )
        failure = workers_.run_notebook(
            task.notebook, task.parameters, claim, cells=cells, env=env or {}
        )
        if claim.lost:
            return _row(task, "busy")
        seconds = round((datetime.now(UTC) - started).total_seconds(), 3)
        row = _row(
            task, "failed" if failure else "done", seconds=seconds, tries=attempt, **(failure or {})
        )
        if failure:
            write_json(task.folder / "failed.json", row)
        else:
            write_json(
                task.folder / "done.json",
                {
                    **row,
                    "notebook": task.notebook,
                    "parameters": task.parameters,
                    "fingerprint": task.fingerprint,
                    "stands_on": stands_on,
                    "started": started.isoformat(),
                    "ended": datetime.now(UTC).isoformat(),
                    "host": claim.record["host"],
                    "versions": environment(),
                },
            )
        return row
    finally:
        claim.release()


def study_status(study):
    """DataFrame, one row per task from the files alone: state, seconds, what it is doing or why it failed, host."""
    import pandas as pd

    return pd.DataFrame([_state(task) for task in plan_.plan_tasks(study)])


def _cluster(table, places, per_gpu, scheduler):
    """Context of (Client, environment); nothing is started when nothing is to be executed."""
    if scheduler or any(row["action"] == "execute" for row in table):
        return workers_.cluster(workers_.slots(places, per_gpu), scheduler)
    return nullcontext((None, {}))


def _drive(client, tasks, rows, *, retries, force, env, show):
    """Generator of rows as tasks are settled and attempts fail; every worker is kept busy with what may be executed."""
    waiting, running, later, tries, last = list(tasks), {}, {}, Counter(), {}
    while waiting or running:
        free = (sum(client.nthreads().values()) if client else 0) - len(running)
        for task in [task for task in waiting if all(need in rows for need in task.needs)]:
            row = _settled(task, rows, force)
            if row:
                rows[task.name] = row
                yield row
            elif client is None:
                raise plan_.RunError(
                    "Another command is changing this study at the same time: the same command goes on."
                )
            elif free > 0 and later.get(task.name, 0) <= time.monotonic():
                job = client.submit(
                    run_task, task, attempt=tries[task.name] + 1, force=force, env=env, pure=False
                )
                running[job], free = task, free - 1
            else:
                continue
            waiting.remove(task)
        time.sleep(LOOK_SECONDS)
        show(running.values())
        for job in [job for job in running if job.done()]:
            task = running.pop(job)
            row = _outcome(job, task, tries[task.name] + 1)
            tries[task.name] += row["state"] == "failed"
            if row["state"] == "busy":
                later[task.name] = time.monotonic() + LATER_SECONDS
                waiting.append(task)
            elif (
                row["state"] == "failed"
                and tries[task.name] <= retries
                and last.get(task.name) != (row["cell"], row["error"])
            ):
                last[task.name] = (
                    row["cell"],
                    row["error"],
                )  # the same error in the same cell a second time will come a third time
                waiting.append(task)
                yield {**row, "again": True}
            else:
                rows[task.name] = row
                yield row


def _settled(task, rows, force):
    """dict, the row of a task that is complete or blocked; None when it is to be executed."""
    if not force and (receipt := plan_.is_complete(task)):
        return _row(task, "skipped", **receipt)
    bad = [need for need in task.needs if rows[need]["state"] in BAD]
    runs = [need for need in task.reads if not need[:2].isdigit()]
    if not bad or any(
        rows[run]["state"] not in BAD for run in runs
    ):  # goes on with those there are; the report names the rest
        return None
    _clear(task.folder, everything=False)
    return _row(task, "blocked", error=f"needs {', '.join(bad)}")


def _outcome(job, task, attempt):
    """dict, the row of a finished job; a notebook whose worker was killed four times over is a failed attempt."""
    if job.cancelled():
        raise plan_.RunError(
            "The Dask scheduler is gone. The same command goes on where it stopped."
        )
    error = job.exception()
    return (
        _row(task, "failed", tries=attempt, error=f"{type(error).__name__}: {error}")
        if error
        else job.result()
    )


def _state(task):
    receipt, failure = (read_json(task.folder / name) for name in ("done.json", "failed.json"))
    held = lease.holder(task.folder)
    state = (
        "running"
        if held
        else "done"
        if plan_.is_complete(task)
        else "failed"
        if failure
        else "old"
        if receipt
        else "waiting"
    )
    now = doing(task.folder) if held else sentence(failure) if failure else ""
    return {
        "task": task.name,
        "state": state,
        "seconds": receipt.get("seconds"),
        "now": now,
        "host": (held or receipt).get("host", ""),
    }


def _keep(file, rows):
    """None; in failures.json every failed or blocked task, those of other calls kept until they are executed again."""
    old = [other for other in read_json(file) or [] if other["task"] not in rows]
    bad = [other for other in rows.values() if other["state"] in BAD]
    if old + bad or file.exists():
        write_json(file, old + bad)


def _clear(folder, *, everything):
    """None; takes away what an earlier execution said, or with everything also what it made."""
    said = (
        "done.json",
        "run.json",
        "notebook.ipynb",
        "failed.json",
        "failed.ipynb",
        "progress.json",
    )
    for path in folder.iterdir() if folder.is_dir() else ():
        if (
            path.name in said
            or path.name.startswith(".notebook-")
            or (everything and not path.name.startswith("."))
        ):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _row(task, state, /, *, seconds=0, tries=0, cell=None, error="", **_):
    return {
        "task": task.name,
        "state": state,
        "seconds": seconds,
        "tries": tries,
        "cell": cell,
        "error": error,
    }
