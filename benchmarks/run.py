"""What the runner costs: a run beyond its kernel's own start and work (at most 1.5 s), and what a
second worker saves (0.6 of one's time, at most).

On a quiet machine: python benchmarks/run.py [sleep seconds]. Writes a temporary folder only.
"""

import json
import os
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

N = 20  # notebooks of the study
ROUNDS = 5
NOTEBOOK = "02_train_resnet18"


def write_project(root, sleep_seconds):
    """None; a project folder with a study of N sleeping notebooks."""
    sources = ['study_name = "bench"\nrun = ""', f"import time\ntime.sleep({sleep_seconds})"]
    cells = [
        {
            "cell_type": "code",
            "id": f"cell{i}",
            "source": source,
            "outputs": [],
            "execution_count": None,
            "metadata": {},
        }
        for i, source in enumerate(sources)
    ]
    cells[0]["metadata"] = {"tags": ["parameters"]}
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": {"name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    for folder in ("notebooks", "studies", "data"):
        (root / folder).mkdir()
    (root / "notebooks" / f"{NOTEBOOK}.ipynb").write_text(json.dumps(notebook))
    text = f'[data]\nsource = "{root / "data"}"\n[axes]\nseed = {list(range(N))}\n'
    (root / "studies" / "bench.toml").write_text(text)


def seconds_of_kernel(notebook):
    """float, seconds of the notebook in nbclient alone: a kernel's own start, its work, its end."""
    import nbformat
    from nbclient import NotebookClient

    start = time.perf_counter()
    NotebookClient(nbformat.read(notebook, as_version=4)).execute()
    return time.perf_counter() - start


def seconds_of_run(task):
    """float, seconds of the same notebook with lease, papermill, guard and receipt."""
    from her2lib.runner.execute import run_task

    start = time.perf_counter()
    row = run_task(task, force=True)
    assert row["state"] == "done", row
    return time.perf_counter() - start


def seconds_of_study(study, *, workers=None):
    """(float, float): seconds to execute everything anew, and the median pause between two runs.

    The pause is of one worker; with several runs overlap.
    """
    from her2lib.runner import execute, plan

    start = time.perf_counter()
    summary = execute.execute_study(study, force=True, progress=False, workers=workers)
    seconds = time.perf_counter() - start
    assert summary.exit_code == 0, summary
    times = []
    for task in plan.plan_tasks(study):
        receipt = json.loads((task.folder / "done.json").read_text())
        times.append(tuple(datetime.fromisoformat(receipt[name]) for name in ("started", "ended")))
    times.sort()
    pauses = [(later[0] - earlier[1]).total_seconds() for earlier, later in pairwise(times)]
    return seconds, median(pauses)


def main():
    """None; prints the figures."""
    sleep_seconds = 5.0
    if len(sys.argv) > 1:
        sleep_seconds = float(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        # before the library is imported: it asks the environment where it is
        os.environ.update(HER2_ROOT=folder, HER2_REPORTS=f"{folder}/reports")
        from her2lib.runner import plan
        from her2lib.study import config

        write_project(Path(folder), sleep_seconds)
        study = config.load_study("bench")
        task = plan.plan_tasks(study)[0]
        notebook = Path(folder) / "notebooks" / f"{NOTEBOOK}.ipynb"
        # by turns: another load on the machine meets both
        rounds = [(seconds_of_kernel(notebook), seconds_of_run(task)) for _ in range(ROUNDS)]
        kernel, run = (min(seconds) for seconds in zip(*rounds, strict=True))
        one, pause = seconds_of_study(study)
        two, _ = seconds_of_study(study, workers=2)
    rows = {
        f"a kernel's own start, work ({sleep_seconds:g} s asleep) and end": (
            f"{kernel:6.2f} s (best of {ROUNDS})"
        ),
        "the same as a run of a study": f"{run:6.2f} s, and {pause:.2f} s until the next",
        "overhead of a run": f"{run - kernel + pause:6.2f} s (at most 1.5)",
        f"{N} runs on one worker": f"{one:6.1f} s",
        f"{N} runs on two workers": (f"{two:6.1f} s, {two / one:.2f} of one's time (at most 0.6)"),
    }
    for name, figures in rows.items():
        print(f"{name:52} {figures}")


if __name__ == "__main__":
    main()
