"""Execute a study's notebooks: papermill over Dask, leases, retries, failures kept. No torch."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from her2lib.files import read_json, write_json
from her2lib.runner import lease
from her2lib.runner import plan as plan_
from her2lib.runner import workers as workers_
from her2lib.runner.plan import RunError, Task
from her2lib.runner.progress import Board, doing, sentence
from her2lib.study.config import Study
from her2lib.study.fingerprints import VERSION, environment

if TYPE_CHECKING:
    import pandas as pd

LOOK_SECONDS = 0.1  # between two looks at what has finished
LATER_SECONDS = 2  # before asking again for what another command executes
FAILED = ("failed", "blocked")
# what an earlier execution says of itself; what it made (a checkpoint, tables) is not among these
TRACES = (
    "done.json",
    "run.json",
    "notebook.ipynb",
    "failed.json",
    "failed.ipynb",
    "progress.json",
)


@dataclass(frozen=True)
class Summary:
    """rows of task, state (done, skipped, failed, blocked, planned), seconds, tries, error."""

    rows: list[dict]

    @property
    def exit_code(self) -> int:
        """int, 0 when everything asked for is complete, else 1."""
        return int(any(row["state"] in FAILED for row in self.rows))

    def __str__(self):
        counts = Counter(row["state"] for row in self.rows)
        line = ", ".join(f"{n} {state}" for state, n in counts.items()) + "."
        failures = [sentence(row) for row in self.rows if row["state"] in FAILED]
        return "\n".join([line, *failures])


def execute_study(
    study: Study,
    *,
    only: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    retries: int = 2,
    workers: int | None = None,
    per_gpu: int = 1,
    scheduler: str | None = None,
    insecure: bool = False,
    progress: bool = True,
) -> Summary:
    """Summary after executing what is not complete; the same call goes on after an interruption.

    only is a pattern of names ('vit*'; what they need is executed too), force does complete work
    again, dry_run says what there is to do and runs nothing. There is one worker for each GPU and
    run that shares it, one in all on CPUs, or as many as workers says. A notebook that fails is
    tried retries times more, unless it fails in the same way twice. Raises RunError where the
    study cannot be executed as asked. Example: print(execute_study(load_study("smoke")))
    """
    if scheduler and not insecure:
        _check_encrypted(scheduler)
    if scheduler:
        _check_certificates(scheduler)
    tasks = plan_.choose_tasks(plan_.plan_tasks(study), only)
    table = plan_.estimate(study, only=only, force=force)
    if progress or dry_run:
        texts = [plan_.announce(table, whole=dry_run), plan_.gpu_sharing(study, per_gpu)]
        print("\n".join(text for text in texts if text), flush=True)
    if dry_run:
        return Summary([_row(task, "planned") for task in tasks])

    rows = {}
    failures = study.folder_of("failures.json")
    board = Board(len(tasks), progress)
    with closing(board), _cluster(table, workers, per_gpu, scheduler) as (client, env):
        drive = _Drive(client, tasks, retries=retries, force=force, env=env)
        try:
            for row in drive.rows_as_they_come(board.show):
                board.settle(row)
                if not row.get("again"):
                    rows[row["task"]] = row
                _write_failures(failures, rows)  # at once: the report's notebook reads it
        finally:
            lease.abandon()  # Ctrl-C: what a thread of this process executes stops now
    return Summary([rows[task.name] for task in tasks])


def run_task(
    task: Task, *, attempt: int = 1, force: bool = False, env: dict[str, str] | None = None
) -> dict:
    """dict, the row of one attempt in a kernel of its own; "busy" when another has the folder.

    The executed notebook is kept as notebook.ipynb or failed.ipynb, and done.json, the receipt of
    a complete task, is written last.
    """
    claim = lease.take(task.folder)
    if claim is None:
        return _row(task, "busy")
    try:
        receipt = plan_.is_complete(task)
        if receipt and not force:  # another command was quicker
            return _row(task, "skipped", **receipt)
        return _run_claimed(task, claim, attempt=attempt, force=force, env=env or {})
    finally:
        claim.release()


def study_status(study: Study) -> "pd.DataFrame":
    """DataFrame, one row per task from the files alone: state, seconds, now, host.

    now is what a running task is doing, or why one failed; a task that is old was finished before
    something that it stands on changed. Example: study_status(load_study("smoke"))
    """
    import pandas as pd

    return pd.DataFrame([_status_row(task) for task in plan_.plan_tasks(study)])


# --- driving all tasks --------------------------------------------------------------------------


class _Drive:
    """A study's tasks on their way: what waits, what runs, how often each was tried, its row."""

    def __init__(self, client, tasks, *, retries: int, force: bool, env: dict):
        self.client = client
        self.retries = retries
        self.force = force
        self.env = env
        self.waiting = list(tasks)
        self.running: dict = {}  # job -> task
        # by the name of a task:
        self.rows: dict[str, dict] = {}  # what is settled
        self.failures: Counter = Counter()  # attempts that failed
        self.last_error: dict[str, tuple] = {}  # cell and error
        self.not_before: dict[str, float] = {}  # time before which it is not asked for again

    def rows_as_they_come(self, show: Callable[[Iterable[Task]], None]) -> Iterator[dict]:
        """Rows as tasks are settled and attempts fail; every worker is kept busy meanwhile."""
        while self.waiting or self.running:
            yield from self._settle_or_start()
            time.sleep(LOOK_SECONDS)
            show(self.running.values())
            yield from self._collect()

    def _settle_or_start(self):
        """Rows of waiting tasks that need no execution; the others start where a worker is free."""
        # workers may come and go with a cluster, so they are counted anew each time
        n_free = self._n_workers() - len(self.running)
        ready = [task for task in self.waiting if all(need in self.rows for need in task.needs)]
        for task in ready:
            row = self._row_without_execution(task)
            if row:
                self.waiting.remove(task)
                self.rows[task.name] = row
                yield row
            elif self.client is None:
                raise RunError(
                    "Another command is changing this study at the same time: the same command "
                    "goes on."
                )
            elif n_free > 0 and self.not_before.get(task.name, 0) <= time.monotonic():
                self.waiting.remove(task)
                self._start(task)
                n_free -= 1

    def _collect(self):
        """Rows of jobs that have finished; a task to be tried again waits again."""
        for job in [job for job in self.running if job.done()]:
            task = self.running.pop(job)
            row = _row_of_job(job, task, attempt=self.failures[task.name] + 1)
            if row["state"] == "busy":
                self.not_before[task.name] = time.monotonic() + LATER_SECONDS
                self.waiting.append(task)
            elif row["state"] == "failed" and self._is_tried_again(task, row):
                self.waiting.append(task)
                yield {**row, "again": True}
            else:
                self.rows[task.name] = row
                yield row

    def _start(self, task):
        attempt = self.failures[task.name] + 1
        # pure=False: the same task may be tried again, and Dask must not answer from memory
        job = self.client.submit(
            run_task, task, attempt=attempt, force=self.force, env=self.env, pure=False
        )
        self.running[job] = task

    def _is_tried_again(self, task, row):
        """bool, after counting this failure: there are tries left and the error is a new one."""
        self.failures[task.name] += 1
        error = (row["cell"], row["error"])
        # the same error in the same cell a second time will come a third time
        is_new = self.last_error.get(task.name) != error
        self.last_error[task.name] = error
        return is_new and self.failures[task.name] <= self.retries

    def _row_without_execution(self, task):
        """dict, the row of a task that is complete or blocked; None when it is to be executed."""
        receipt = plan_.is_complete(task)
        if receipt and not self.force:
            return _row(task, "skipped", **receipt)
        failed = [need for need in task.needs if self.rows[need]["state"] in FAILED]
        # a comparison goes on with the runs there are, and the report names the rest
        runs = [name for name in task.reads if not name[:2].isdigit()]
        some_run_is_there = any(self.rows[run]["state"] not in FAILED for run in runs)
        if not failed or some_run_is_there:
            return None
        _clear(task.folder, everything=False)
        return _row(task, "blocked", error=f"needs {', '.join(failed)}")

    def _n_workers(self):
        if self.client is None:
            return 0
        return sum(self.client.nthreads().values())


def _check_encrypted(scheduler):
    if not scheduler.startswith(("tls://", "wss://")):
        raise RunError(
            f"{scheduler} is not encrypted, and Dask runs whatever it is sent: use tls:// or say "
            "--insecure."
        )


def _check_certificates(scheduler):
    """None; raises where Dask is to speak TLS and has no certificates, which it takes ill."""
    if not scheduler.startswith(("tls://", "wss://")):
        return
    from distributed.security import Security

    try:
        context = Security().get_connection_args("client")["ssl_context"]
    # A file that is not there, may not be read or holds no certificate.
    except OSError as error:
        raise RunError(
            "The certificates that distributed.comm.tls in ~/.config/dask names cannot be read: "
            "correct their paths, as docs/cluster.md shows."
        ) from error
    if context is None:
        raise RunError(
            f"{scheduler} needs certificates, and Dask knows none: docs/cluster.md shows how to "
            "make them, once (distributed.comm.tls in ~/.config/dask)."
        )


def _cluster(table, workers, per_gpu, scheduler):
    """Context of (Client, environment); nothing is started when nothing is to be executed."""
    if scheduler:
        return _cluster_elsewhere(scheduler)
    if any(row["action"] == "execute" for row in table):
        return workers_.cluster(workers_.slots(workers, per_gpu))
    return nullcontext((None, {}))


@contextmanager
def _cluster_elsewhere(scheduler):
    """Context of (Client, {}) of a scheduler that is running; RunError where none answers."""
    from distributed import Client

    try:
        client = Client(scheduler)
    # No connection in time; an address without a port, or of a kind that Dask does not know.
    except (OSError, ValueError) as error:
        raise RunError(
            f"No Dask scheduler answers at {scheduler}: start one, or correct the address "
            "(tls://host:port), as docs/cluster.md shows."
        ) from error
    with client:
        yield client, {}


def _row_of_job(job, task, *, attempt):
    """dict, the row of a finished job; whose worker was killed four times over has failed."""
    if job.cancelled():
        raise RunError("The Dask scheduler is gone. The same command goes on where it stopped.")
    error = job.exception()
    if error:
        return _row(task, "failed", tries=attempt, error=f"{type(error).__name__}: {error}")
    return job.result()


# --- one task -----------------------------------------------------------------------------------


def _run_claimed(task, claim, *, attempt, force, env):
    """dict, the row of one attempt in a folder that is ours."""
    # a second attempt goes on from the checkpoint of the first, also under force
    _clear(task.folder, everything=force and attempt == 1)
    cells = plan_.notebook_cells(task.notebook)
    stands_on = plan_.results_read(task)  # as it is now: it may change while the notebook runs
    started = datetime.now(UTC)
    failure = workers_.run_notebook(task.notebook, task.parameters, claim, cells=cells, env=env)
    if claim.lost:
        return _row(task, "busy")
    ended = datetime.now(UTC)
    seconds = round((ended - started).total_seconds(), 3)
    if failure:
        row = _row(task, "failed", seconds=seconds, tries=attempt, **failure)
        write_json(task.folder / "failed.json", row)
        return row
    row = _row(task, "done", seconds=seconds, tries=attempt)
    receipt = {
        **row,
        "notebook": task.notebook,
        "parameters": task.parameters,
        "fingerprint": task.fingerprint,
        "fingerprint_scheme": VERSION,
        "stands_on": stands_on,
        "started": started.isoformat(),
        "ended": ended.isoformat(),
        "host": claim.record["host"],
        "versions": environment(),
    }
    write_json(task.folder / "done.json", receipt)
    return row


def _clear(folder: Path, *, everything: bool):
    """None; takes away what an earlier execution says, or with everything also what it made."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        is_trace = path.name in TRACES or path.name.startswith(".notebook-")
        is_result = not path.name.startswith(".")  # leases begin with a dot
        if not is_trace and not (everything and is_result):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _row(task, state, /, *, seconds=0, tries=0, cell=None, error="", **_):
    """dict of one task in a summary; further facts of a receipt are left out."""
    return {
        "task": task.name,
        "state": state,
        "seconds": seconds,
        "tries": tries,
        "cell": cell,
        "error": error,
    }


# --- status and failures ------------------------------------------------------------------------


def _status_row(task):
    receipt = read_json(task.folder / "done.json")
    failure = read_json(task.folder / "failed.json")
    holder = lease.holder(task.folder)
    now = ""
    if holder:
        now = doing(task.folder)
    elif failure:
        now = sentence(failure)
    return {
        "task": task.name,
        "state": _state(task, holder, receipt, failure),
        "seconds": receipt.get("seconds"),
        "now": now,
        "host": (holder or receipt).get("host", ""),
    }


def _state(task, holder, receipt, failure):
    """str, running, done, failed, old (finished before something changed) or waiting."""
    if holder:
        return "running"
    if plan_.is_complete(task):
        return "done"
    if failure:
        return "failed"
    if receipt:
        return "old"
    return "waiting"


def _write_failures(file, rows):
    """None; failures.json lists what failed or is blocked, of other calls until it runs again."""
    of_other_calls = [row for row in read_json(file) or [] if row["task"] not in rows]
    failures = [row for row in rows.values() if row["state"] in FAILED]
    if of_other_calls or failures or file.exists():
        write_json(file, of_other_calls + failures)
