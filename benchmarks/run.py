"""What the runner costs: a run beyond its kernel's own start and work (at most 1.5 s), and what a second worker saves (0.6).

On a quiet machine: python benchmarks/run.py [sleep seconds]. Writes a temporary folder only."""

import json
import os
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

N, ROUNDS = 20, 5


def project(root, sleep_seconds):
    """None; a project folder with a study of N sleeping notebooks."""
    sources = ['study = "bench"\nrun = ""', f"import time\ntime.sleep({sleep_seconds})"]
    cells = [
        {
            "cell_type": "code",
            "id": f"cell{i}",
            "source": source,
            "outputs": [],
            "execution_count": None,
            "metadata": {"tags": ["parameters"]} if i == 0 else {},
        }
        for i, source in enumerate(sources)
    ]
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": {"name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    for folder in ("notebooks", "studies", "data"):
        (root / folder).mkdir()
    (root / "notebooks" / "02_train_resnet18.ipynb").write_text(json.dumps(notebook))
    text = f'[data]\nsource = "{root / "data"}"\n[axes]\nseed = {list(range(N))}\n'
    (root / "studies" / "bench.toml").write_text(text)


def plain(notebook):
    """float, seconds of the notebook in nbclient alone: a kernel's own start, its work, its end."""
    import nbformat
    from nbclient import NotebookClient

    begun = time.perf_counter()
    NotebookClient(nbformat.read(notebook, as_version=4)).execute()
    return time.perf_counter() - begun


def ours(run, task):
    """float, seconds of the same notebook with lease, papermill, guard and receipt."""
    begun, row = time.perf_counter(), run.perform(task, force=True)
    assert row["state"] == "done", row
    return time.perf_counter() - begun


def executed(run, study, **how):
    """(float, float): seconds of a call that executes everything anew, and the median pause between its runs on one worker."""
    begun = time.perf_counter()
    summary = run.execute(study, force=True, progress=False, **how)
    seconds = time.perf_counter() - begun
    assert summary.exit_code == 0, summary
    receipts = [json.loads((task.folder / "done.json").read_text()) for task in run.plan(study)]
    ends = sorted(
        (datetime.fromisoformat(r["started"]), datetime.fromisoformat(r["ended"])) for r in receipts
    )
    return seconds, median(
        (later[0] - earlier[1]).total_seconds() for earlier, later in pairwise(ends)
    )


def main():
    """None; prints the figures."""
    sleep_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(HER2_ROOT=folder, HER2_REPORTS=f"{folder}/reports")
        from her2lib.runner import execute, plan
        from her2lib.study import config  # only now: they ask the environment where they are

        project(Path(folder), sleep_seconds)
        bench = config.load_study("bench")
        task, notebook = (
            plan.plan_tasks(bench)[0],
            Path(folder) / "notebooks" / "02_train_resnet18.ipynb",
        )
        rounds = [
            (plain(notebook), ours(execute, task)) for _ in range(ROUNDS)
        ]  # by turns: another load meets both
        own, same = map(min, zip(*rounds, strict=True))
        (one, pause), (two, _) = executed(execute, bench), executed(execute, bench, workers=2)
    print(
        f"a kernel's own start, work ({sleep_seconds:g} s asleep) and end  {own:6.2f} s (best of {ROUNDS})"
    )
    print(
        f"the same as a run of a study                      {same:6.2f} s, and {pause:.2f} s until the next"
    )
    print(
        f"overhead of a run                                 {same - own + pause:6.2f} s (at most 1.5)"
    )
    print(f"{N} runs on one worker                             {one:6.1f} s")
    print(
        f"{N} runs on two workers                            {two:6.1f} s, {two / one:.2f} of one's time (at most 0.6)"
    )


if __name__ == "__main__":
    main()
