"""What the runner costs: a run beyond its kernel's own start and work (at most 1.5 s), and what a second worker saves (0.6).

Run it on a quiet machine: python benchmarks/run.py [sleep seconds]. Temporary folder, nothing else is written.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

N = 20


def project(root, sleep_seconds):
    """Study of N sleeping notebooks in a project folder of its own."""
    from her2lib import study

    sources = ['study = "bench"\nrun = ""', f"import time\ntime.sleep({sleep_seconds})"]
    cells = [{"cell_type": "code", "id": f"cell{i}", "source": source, "outputs": [], "execution_count": None,
              "metadata": {"tags": ["parameters"]} if i == 0 else {}} for i, source in enumerate(sources)]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    for folder in ("notebooks", "studies", "data"):
        (root / folder).mkdir()
    (root / "notebooks" / "02_train_resnet18.ipynb").write_text(json.dumps(notebook))
    text = f'[data]\nsource = "{root / "data"}"\n[axes]\nseed = {list(range(N))}\n'
    (root / "studies" / "bench.toml").write_text(text)
    return study.load(str(root / "studies" / "bench.toml"))


def plain(study):
    """float, seconds of the same notebook in nbclient alone: a kernel's own start, its work, its end (median of 3)."""
    import nbformat
    from nbclient import NotebookClient

    def once():
        begun = time.perf_counter()
        NotebookClient(nbformat.read(study.file.parents[1] / "notebooks" / "02_train_resnet18.ipynb", as_version=4)).execute()
        return time.perf_counter() - begun

    once()  # warms the file cache
    return median(once() for _ in range(3))


def executed(study, **how):
    """float, seconds of a whole call that executes, everything anew."""
    from her2lib import run

    begun = time.perf_counter()
    summary = run.execute(study, force=True, progress=False, **how)
    assert summary.exit_code == 0, summary
    return time.perf_counter() - begun


def main():
    """None; prints the figures."""
    sleep_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(HER2_ROOT=folder, HER2_REPORTS=f"{folder}/reports")
        study = project(Path(folder), sleep_seconds)
        own = plain(study)
        first = executed(study, only="*-s0")
        one = executed(study)
        two = executed(study, workers=2)
    each = (one - first) / (N - 1)
    print(f"a kernel's own start, work ({sleep_seconds:g} s asleep) and end  {own:6.2f} s")
    print(f"a run of the study                                {each:6.2f} s, overhead {each - own:.2f} s (at most 1.5)")
    print(f"a call, before and after its runs                 {first - each:6.2f} s")
    print(f"{N} runs on one worker                             {one:6.1f} s")
    print(f"{N} runs on two workers                            {two:6.1f} s, {two / one:.2f} of one's time (at most 0.6)")


if __name__ == "__main__":
    main()
