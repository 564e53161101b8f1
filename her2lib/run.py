"""Plan and execute a study's notebooks: papermill over Dask, leases, skip what is done. No torch here: planning is instant."""

import ast
import json
import shutil
import time
from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import median

from her2lib import lease, workers
from her2lib.board import Board, doing, duration, sentence
from her2lib.scores import nearest
from her2lib.study import (
    NOTEBOOK_OF,
    REVIEW,
    ROOT,
    code_fingerprint,
    data_fingerprint,
    environment,
    fingerprint,
    read_json,
    write_json,
)

REPORT = "10_report"
LOOK_SECONDS, LATER_SECONDS = (
    0.1,
    2,
)  # between two looks at what has finished; before asking again for what another command executes
BAD = ("failed", "blocked")


class RunError(RuntimeError):
    """A study that cannot be executed as asked; the sentence names the remedy."""


@dataclass(frozen=True)
class Task:
    """One execution of one notebook: what it is given, what is settled before it, whose results it reads."""

    name: str
    notebook: str
    parameters: dict
    needs: tuple
    reads: tuple
    fingerprint: str
    folder: Path


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


def plan(study):
    """list of Task in the order of execution: exploration, runs, comparisons, side rooms, report."""
    found = [file.stem for file in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    before = [name for name in found if name < "02"]
    after = [name for name in found if "06" <= name < "90" and name != REPORT] + _rooms(
        study, found
    )
    data, code, tasks = [data_fingerprint(study), study.data], cache(code_fingerprint), {}

    def add(name, notebook, needs, reads, hangs_on, **given):
        parameters = {"study": _name(study), **given}
        _check_parameters(notebook, parameters)
        mark = fingerprint(
            code(notebook), parameters, hangs_on, [tasks[need].fingerprint for need in reads]
        )
        tasks[name] = Task(
            name, notebook, parameters, tuple(needs), tuple(reads), mark, study.folder_of(name)
        )

    for name in before:
        add(name, name, before[: before.index(name)], [], [data, study.maps])
    for row in (
        study.runs()
    ):  # waits for 00 and 01, which prepare the data, but reads nothing that they write
        add(
            row["run"],
            NOTEBOOK_OF[row["network"]],
            before,
            [],
            [data, *study.stands_on(row)],
            run=row["run"],
        )
    first, whole = (
        list(tasks),
        [data, study.question, study.axes, study.also, study.maps, study.published],
    )
    for name in after:
        add(name, name, first, first, whole + study.readings * (name == REVIEW))
    if REPORT in found:
        add(REPORT, REPORT, list(tasks), list(tasks), whole)
    return list(tasks.values())


def complete(task):
    """dict, the receipt of a task that was executed as it now stands, on the results that now stand; else None."""
    receipt = read_json(task.folder / "done.json")
    whole = receipt.get("fingerprint") == task.fingerprint and receipt["stands_on"] == _stands_on(
        task
    )
    return receipt if whole and (task.folder / "notebook.ipynb").is_file() else None


def estimate(study, *, only=None, force=False):
    """list of dict, the plan: task, action (skip, execute), seconds as it or its like took before (None unknown)."""
    tasks, axes = plan(study), {row["run"]: row for row in study.runs()}
    spent = {task.name: read_json(task.folder / "done.json").get("seconds") for task in tasks}

    def seconds(name):
        like = [
            spent[other]
            for other, row in axes.items()
            if name in axes
            and spent[other]
            and all(row[axis] == axes[name][axis] for axis in ("network", "side_px", "n_train"))
        ]
        return spent[name] or (median(like) if like else None)

    return [
        {
            "task": task.name,
            "action": "skip" if complete(task) and not force else "execute",
            "seconds": seconds(task.name),
        }
        for task in chosen(tasks, only)
    ]


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
        raise RunError(
            f"{scheduler} is not encrypted, and Dask runs whatever it is sent: use tls:// or say --insecure."
        )
    tasks, table = chosen(plan(study), only), estimate(study, only=only, force=force)
    if progress or dry_run:
        print(_announce(table, whole=dry_run) + _shared(study, per_gpu), flush=True)
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


def perform(task, *, attempt=1, force=False, env=None):
    """dict, the row of one attempt in a kernel of its own, kept as notebook.ipynb or failed.ipynb; busy when not ours to do."""
    claim = lease.take(task.folder)
    if claim is None:
        return _row(task, "busy")
    try:
        if not force and (receipt := complete(task)):  # another command was quicker
            return _row(task, "skipped", **receipt)
        _clear(task.folder, everything=force and attempt == 1)
        cells, started, stands_on = _cells(task.notebook), datetime.now(UTC), _stands_on(task)
        failure = workers.run_notebook(
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


def status(study):
    """DataFrame, one row per task from the files alone: state, seconds, what it is doing or why it failed, host."""
    import pandas as pd

    return pd.DataFrame([_state(task) for task in plan(study)])


def chosen(tasks, only):
    """list of Task whose names match a pattern such as 'vit*', and what they need."""
    by_name = {task.name: task for task in tasks}
    waiting, wanted = [name for name in by_name if only is None or fnmatch(name, only)], set()
    if not waiting:
        raise RunError(
            f"No notebook or run of this study matches {only!r}.{nearest(only, by_name)}"
        )
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += [need for need in by_name[name].needs if need not in wanted]
    return [task for task in tasks if task.name in wanted]


def _cluster(table, places, per_gpu, scheduler):
    """Context of (Client, environment); nothing is started when nothing is to be executed."""
    if scheduler or any(row["action"] == "execute" for row in table):
        return workers.cluster(workers.slots(places, per_gpu), scheduler)
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
                raise RunError(
                    "Another command is changing this study at the same time: the same command goes on."
                )
            elif free > 0 and later.get(task.name, 0) <= time.monotonic():
                job = client.submit(
                    perform, task, attempt=tries[task.name] + 1, force=force, env=env, pure=False
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
    if not force and (receipt := complete(task)):
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
        raise RunError("The Dask scheduler is gone. The same command goes on where it stopped.")
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
        if complete(task)
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


def _announce(table, *, whole):
    """str, the plan as one sentence, or with a line per task."""
    todo = [row["seconds"] for row in table if row["action"] == "execute"]
    known = [seconds for seconds in todo if seconds is not None]
    cost = (
        f"about {duration(sum(known))} of work, as before"
        if known
        else "cost unknown before a first run"
    )
    more = f"; {len(todo) - len(known)} never timed" if 0 < len(known) < len(todo) else ""
    lines = [f"{row['action']:8} {row['task']}  {duration(row['seconds'])}" for row in table]
    done = len(table) - len(todo)
    return "\n".join(
        [
            *(lines if whole else []),
            f"{len(table)} notebooks: {done} complete, {len(todo)} to execute"
            + (f" ({cost}{more})." if todo else "."),
        ]
    )


def _shared(study, per_gpu):
    """str, what sharing a GPU costs in memory: the largest networks meet on one; "" when nothing is shared."""
    if per_gpu < 2:
        return ""
    batch = study.train.get("batch", 32)
    kinds = sorted({(run["network"], run["side_px"]) for run in study.runs()})
    sizes = [workers.memory_gb(network, side_px=side_px, batch=batch) for network, side_px in kinds]
    each = [
        f"{network} at {side_px} px {gb:.1f} GB"
        for (network, side_px), gb in zip(kinds, sizes, strict=True)
    ]
    return (
        f"\n{per_gpu} runs share each GPU: at most {per_gpu * max(sizes):.1f} GB and {per_gpu} copies of the patches "
        f"(estimate for batches of {batch}, not measured: {'; '.join(each)})."
    )


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


def _stands_on(task):
    """list of str, when what this task reads was made, or how it failed: another answer makes this task old."""
    folders = [task.folder.parent / name for name in task.reads]
    return [
        read_json(f / "done.json").get("ended") or read_json(f / "failed.json").get("error", "")
        for f in folders
    ]


def _rooms(study, found):
    """list of the notebooks 90 and up that the study asks for, by name, number or title."""
    rooms = [name for name in found if name >= "90"]
    for room in study.rooms:
        if not any(room in (name, name[:2], name[3:]) for name in rooms):
            raise RunError(
                f"{study.file.name}: there is no side room {room!r}.{nearest(room, rooms)}"
            )
    return [name for name in rooms if {name, name[:2], name[3:]} & set(study.rooms)]


def _name(study):
    home = study.file.resolve().parent == (ROOT / "studies").resolve()
    return study.name if home else str(study.file.resolve())


def _check_parameters(notebook, parameters):
    """None; raises for a parameter that the notebook does not have: papermill would only warn, and run its defaults."""
    tagged = [
        "".join(cell["source"])
        for cell in _cells(notebook)
        if "parameters" in cell["metadata"].get("tags", ())
    ]
    nodes = ast.parse("\n".join(tagged)).body
    known = [
        target.id
        for node in nodes
        for target in getattr(node, "targets", ())
        if isinstance(target, ast.Name)
    ]
    for word in parameters:
        if word not in known:
            raise RunError(
                f"{notebook}.ipynb has no parameter {word!r} in a cell tagged parameters.{nearest(word, known)}"
            )


def _cells(notebook):
    return json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]


def _row(task, state, /, *, seconds=0, tries=0, cell=None, error="", **_):
    return {
        "task": task.name,
        "state": state,
        "seconds": seconds,
        "tries": tries,
        "cell": cell,
        "error": error,
    }
