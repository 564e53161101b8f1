"""What a study has to execute: its notebooks as tasks, what each reads, if it is done, its cost."""

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import median

from her2lib.files import ROOT, did_you_mean, fingerprint, read_json
from her2lib.runner import workers as workers_
from her2lib.runner.progress import duration
from her2lib.study.config import REVIEW, Study
from her2lib.study.fingerprints import VERSION, code_fingerprint, data_fingerprint
from her2lib.study.keys import NETWORKS

REPORT = "10_report"
CLAIMS = "11_map_faithfulness"  # judges the sentences of studies/claims.toml
SAME_COST = ("network", "side_px", "n_train")  # runs that share these take about as long


class RunError(RuntimeError):
    """A study that cannot be executed as asked; the sentence names the remedy."""


@dataclass(frozen=True)
class Task:
    """One execution of one notebook: its parameters, what is settled before it, what it reads."""

    name: str
    notebook: str
    parameters: dict[str, str]
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    fingerprint: str
    folder: Path


def plan_tasks(study: Study) -> list[Task]:
    """list of Task in the order of execution: exploration, runs, comparisons, side rooms, report.

    Raises RunError for a side room that does not exist, and for a notebook without the parameters
    that it would be given. Example: [task.name for task in plan_tasks(load_study("smoke"))]
    """
    notebooks = [file.stem for file in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    before = [name for name in notebooks if name < "02"]
    after = [name for name in notebooks if "06" <= name < "90" and name != REPORT]
    after += _extra_notebooks(study, notebooks)
    data = [data_fingerprint(study), study.data]
    whole: list = [data, study.question, study.axes, study.extra_axes, study.maps, study.published]

    tasks = _Tasks(study)
    for i, name in enumerate(before):
        tasks.add(name, needs=before[:i], stands_on=[data, study.maps])

    # a run waits for 00 and 01, which prepare the data, but reads nothing that they write
    for run in study.runs():
        tasks.add(
            run["run"],
            notebook=NETWORKS[run["network"]].notebook,
            needs=before,
            stands_on=[data, *study.stands_on(run)],
            run=run["run"],
        )
    so_far = tasks.names()
    for name in after:
        stands_on = whole
        if name == REVIEW:
            stands_on = whole + study.readings
        if name == CLAIMS:
            stands_on = [*whole, _claims_text()]
        tasks.add(name, needs=so_far, reads=so_far, stands_on=stands_on)
    if REPORT in notebooks:
        so_far = tasks.names()
        tasks.add(REPORT, needs=so_far, reads=so_far, stands_on=whole)
    return list(tasks.by_name.values())


def _claims_text():
    """str, what studies/claims.toml says; "" where there is none."""
    file = ROOT / "studies" / "claims.toml"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return ""


def is_complete(task: Task) -> dict | None:
    """dict, the receipt of a task executed as it and what it reads now stand; else None."""
    receipt = read_json(task.folder / "done.json")
    if receipt.get("fingerprint") != task.fingerprint:
        return None
    if receipt["stands_on"] != results_read(task):
        return None
    if not (task.folder / "notebook.ipynb").is_file():
        return None
    return receipt


def results_read(task: Task) -> list[str]:
    """list of str, when what this task reads was made, or how it failed.

    Another answer makes the task old.
    """
    answers = []
    for name in task.reads:
        folder = task.folder.parent / name
        ended = read_json(folder / "done.json").get("ended")
        answers.append(ended or read_json(folder / "failed.json").get("error", ""))
    return answers


def estimate(study: Study, *, only: str | None = None, force: bool = False) -> list[dict]:
    """list of dict, the plan: task, action (skip, execute), seconds, other_scheme, trains.

    seconds are as it or its like took before, None if unknown; other_scheme says that it was
    finished before, under fingerprints that cannot be compared with today's (see announce).
    """
    tasks = plan_tasks(study)
    receipts = {task.name: read_json(task.folder / "done.json") for task in tasks}
    spent = {name: receipt.get("seconds") for name, receipt in receipts.items()}
    runs = {run["run"]: run for run in study.runs()}
    table = []
    for task in choose_tasks(tasks, only):
        action = "execute"
        if is_complete(task) and not force:
            action = "skip"
        receipt = receipts[task.name]
        row = {
            "task": task.name,
            "action": action,
            "seconds": _expected_seconds(task.name, spent, runs),
            "other_scheme": bool(receipt) and receipt.get("fingerprint_scheme") != VERSION,
            "trains": task.name in runs,
        }
        table.append(row)
    return table


def choose_tasks(tasks: list[Task], only: str | None) -> list[Task]:
    """list of Task whose names match a pattern such as 'vit*', and what they need."""
    by_name = {task.name: task for task in tasks}
    # not only what it needs itself: also what that needs
    waiting = [name for name in by_name if only is None or fnmatch(name, only)]
    if not waiting:
        raise RunError(
            f"No notebook or run of this study matches {only!r}.{did_you_mean(only, by_name)}"
        )
    wanted = set()
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += [need for need in by_name[name].needs if need not in wanted]
    return [task for task in tasks if task.name in wanted]


def notebook_cells(notebook: str) -> list[dict]:
    """list of dict, the cells of a notebook of the project."""
    file = ROOT / "notebooks" / f"{notebook}.ipynb"
    return json.loads(file.read_text(encoding="utf-8"))["cells"]


# --- what people are told before anything starts ------------------------------------------------


def announce(table: list[dict], *, whole: bool) -> str:
    """str, the plan of estimate: a line per task if whole, its cost, why finished work is old."""
    lines = []
    if whole:  # a dry run
        lines = [f"{row['action']:8} {row['task']}  {duration(row['seconds'])}" for row in table]
    todo = [row for row in table if row["action"] == "execute"]
    text = f"{len(table)} notebooks: {len(table) - len(todo)} complete, {len(todo)} to execute"
    if todo:
        text += f" ({_cost([row['seconds'] for row in todo])})"
    lines.append(f"{text}.")
    other_scheme = [row for row in todo if row["other_scheme"]]
    if other_scheme:
        lines.append(_why_old(other_scheme))
    return "\n".join(lines)


def gpu_sharing(study: Study, per_gpu: int) -> str:
    """str, what sharing a GPU costs in memory if the largest networks meet on one, or ""."""
    if per_gpu < 2:
        return ""
    batch = study.train.get("batch", 32)
    gigabytes = []
    texts = []
    for network, side_px in sorted({(run["network"], run["side_px"]) for run in study.runs()}):
        gb = workers_.memory_gb(network, side_px=side_px, batch=batch)
        gigabytes.append(gb)
        texts.append(f"{network} at {side_px} px {gb:.1f} GB")
    return (
        f"{per_gpu} runs share each GPU: at most {per_gpu * max(gigabytes):.1f} GB and {per_gpu} "
        f"copies of the patches (estimate for batches of {batch}, not measured: "
        f"{'; '.join(texts)})."
    )


def _cost(seconds):
    """str, what is to be executed took so long before, as far as it was ever timed."""
    known = [one for one in seconds if one is not None]
    if not known:
        return "cost unknown before a first run"
    text = f"about {duration(sum(known))} of work, as before"
    if len(known) < len(seconds):
        text += f"; {len(seconds) - len(known)} never timed"
    return text


def _why_old(table):
    """str, the sentence on finished work that was made under another scheme of fingerprints."""
    # No network of scheme 1 is taken over: the stamp of a training holds the source of
    # networks.train and what decides beside it, and all of these changed with the scheme.
    # Whoever raises VERSION must ask whether that is still so.
    text = (
        "Made by another version of this kit, whose fingerprints of code cannot be compared with "
        f"today's: {_number_of(table, 'finished notebook')}, to be executed again"
    )
    trainings = [row for row in table if row["trains"]]
    if trainings:
        text += f", with {_number_of(trainings, 'network')}, to be trained again from the start"
    return f"{text}."


def _number_of(rows, noun):
    if len(rows) == 1:
        return f"1 {noun}"
    return f"{len(rows)} {noun}s"


# --- helpers ------------------------------------------------------------------------------------


class _Tasks:
    """The tasks of a study as they are added, one standing on those before it."""

    def __init__(self, study):
        self.study = study
        self.by_name = {}
        self.code = cache(code_fingerprint)

    def names(self):
        return list(self.by_name)

    def add(self, name, *, needs, stands_on, notebook="", reads=(), **parameters):
        notebook = notebook or name
        parameters = {"study_name": _name_or_path(self.study), **parameters}
        _check_parameters(notebook, parameters)
        read = [self.by_name[other].fingerprint for other in reads]
        mark = fingerprint(VERSION, self.code(notebook), parameters, stands_on, read)
        folder = self.study.folder_of(name)
        self.by_name[name] = Task(
            name, notebook, parameters, tuple(needs), tuple(reads), mark, folder
        )


def _extra_notebooks(study: Study, notebooks: Iterable[str]) -> list[str]:
    """list of the notebooks 90 and up that the study asks for, by name, number or title."""
    side_rooms = [name for name in notebooks if name >= "90"]
    wanted = set()
    for asked in study.extra_notebooks:
        matching = [name for name in side_rooms if asked in (name, name[:2], name[3:])]
        if not matching:
            raise RunError(
                f"{study.file.name}: there is no side room {asked!r}."
                f"{did_you_mean(asked, side_rooms)}"
            )
        wanted.update(matching)
    return [name for name in side_rooms if name in wanted]


def _name_or_path(study):
    """str, by which a notebook finds the study: its name, or the path of a file elsewhere."""
    file = study.file.resolve()
    # a kernel starts in notebooks/, so only a name or a whole path means the same there
    if file.parent == (ROOT / "studies").resolve():
        return study.name
    return str(file)


def _check_parameters(notebook, parameters):
    """None; raises for a parameter that the notebook does not have.

    Papermill would only warn, and run the notebook's defaults.
    """
    sources = []
    for cell in notebook_cells(notebook):
        if "parameters" in cell["metadata"].get("tags", ()):
            sources.append("".join(cell["source"]))
    known = []
    for node in ast.parse("\n".join(sources)).body:
        for target in getattr(node, "targets", ()):
            if isinstance(target, ast.Name):
                known.append(target.id)
    for name in parameters:
        if name not in known:
            raise RunError(
                f"{notebook}.ipynb has no parameter {name!r} in a cell tagged parameters."
                f"{did_you_mean(name, known)}"
            )


def _expected_seconds(name, spent, runs):
    """float of a task as it took before, else as runs of the same cost did; None if unknown."""
    if spent[name]:
        return spent[name]
    if name not in runs:
        return None
    same_cost = [
        spent[other]
        for other, run in runs.items()
        if spent[other] and all(run[axis] == runs[name][axis] for axis in SAME_COST)
    ]
    if not same_cost:
        return None
    return median(same_cost)
