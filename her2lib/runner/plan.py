"""What a study has to execute: its notebooks as tasks, what each reads, whether it is done, what it will cost."""

import ast
import json
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import median

from her2lib.files import ROOT, did_you_mean, fingerprint, read_json
from her2lib.runner import workers as workers_
from her2lib.runner.progress import duration
from her2lib.study.config import NOTEBOOK_OF, REVIEW
from her2lib.study.fingerprints import code_fingerprint, data_fingerprint

REPORT = "10_report"


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


def plan_tasks(study):
    """list of Task in the order of execution: exploration, runs, comparisons, side rooms, report."""
    found = [file.stem for file in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    before = [name for name in found if name < "02"]
    after = [name for name in found if "06" <= name < "90" and name != REPORT] + _rooms(
        study, found
    )
    data, code, tasks = [data_fingerprint(study), study.data], cache(code_fingerprint), {}

    def add(name, notebook, needs, reads, hangs_on, **given):
        parameters = {"study_name": _name(study), **given}
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
        [data, study.question, study.axes, study.extra_axes, study.maps, study.published],
    )
    for name in after:
        add(name, name, first, first, whole + study.readings * (name == REVIEW))
    if REPORT in found:
        add(REPORT, REPORT, list(tasks), list(tasks), whole)
    return list(tasks.values())


def is_complete(task):
    """dict, the receipt of a task that was executed as it now stands, on the results that now stand; else None."""
    receipt = read_json(task.folder / "done.json")
    whole = receipt.get("fingerprint") == task.fingerprint and receipt["stands_on"] == _stands_on(
        task
    )
    return receipt if whole and (task.folder / "notebook.ipynb").is_file() else None


def estimate(study, *, only=None, force=False):
    """list of dict, the plan: task, action (skip, execute), seconds as it or its like took before (None unknown)."""
    tasks, axes = plan_tasks(study), {row["run"]: row for row in study.runs()}
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
            "action": "skip" if is_complete(task) and not force else "execute",
            "seconds": seconds(task.name),
        }
        for task in choose_tasks(tasks, only)
    ]


def choose_tasks(tasks, only):
    """list of Task whose names match a pattern such as 'vit*', and what they need."""
    by_name = {task.name: task for task in tasks}
    waiting, wanted = [name for name in by_name if only is None or fnmatch(name, only)], set()
    if not waiting:
        raise RunError(
            f"No notebook or run of this study matches {only!r}.{did_you_mean(only, by_name)}"
        )
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += [need for need in by_name[name].needs if need not in wanted]
    return [task for task in tasks if task.name in wanted]


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
    sizes = [
        workers_.memory_gb(network, side_px=side_px, batch=batch) for network, side_px in kinds
    ]
    each = [
        f"{network} at {side_px} px {gb:.1f} GB"
        for (network, side_px), gb in zip(kinds, sizes, strict=True)
    ]
    return (
        f"\n{per_gpu} runs share each GPU: at most {per_gpu * max(sizes):.1f} GB and {per_gpu} copies of the patches "
        f"(estimate for batches of {batch}, not measured: {'; '.join(each)})."
    )


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
    for room in study.extra_notebooks:
        if not any(room in (name, name[:2], name[3:]) for name in rooms):
            raise RunError(
                f"{study.file.name}: there is no side room {room!r}.{did_you_mean(room, rooms)}"
            )
    return [name for name in rooms if {name, name[:2], name[3:]} & set(study.extra_notebooks)]


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
                f"{notebook}.ipynb has no parameter {word!r} in a cell tagged parameters.{did_you_mean(word, known)}"
            )


def _cells(notebook):
    return json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
