"""What running notebooks are doing, in words and bars: for a terminal, a notebook, a log file."""

import sys
import time
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

from tqdm.auto import tqdm

from her2lib.files import read_json
from her2lib.runner import lease

# between two looks at the running notebooks: for eyes, and for a log file
LIVE_SECONDS = 0.5
LOG_SECONDS = 60


class Board:
    """One bar for the study and a line per running notebook; in a log file lines of plain text."""

    def __init__(self, total: int, progress: bool):
        self.live = progress and (sys.stderr.isatty() or _in_notebook())
        self.plain = progress and not self.live
        self.total = total
        self.settled = 0
        self.next_look = 0.0
        self.lines: list[tqdm] = []
        self.bar = tqdm(total=total, desc="notebooks", unit="notebook", disable=not self.live)

    def show(self, tasks: Iterable) -> None:
        """None; one line per running notebook, from time to time."""
        if time.monotonic() < self.next_look or not (self.live or self.plain):
            return
        texts = [f"{task.name}: {doing(task.folder)}" for task in tasks]
        if self.plain:
            self.next_look = time.monotonic() + LOG_SECONDS
            for text in texts:
                print(f"{'':10}{text}", flush=True)
        else:
            self.next_look = time.monotonic() + LIVE_SECONDS
            self._show_live(texts)

    def settle(self, row: dict) -> None:
        """None; one task less to wait for, or one more attempt."""
        if not row.get("again"):
            self.settled += 1
            self.bar.update(1)
        # the bar tells of what is done; a log file has lines only
        worth_a_line = self.plain or (self.live and row["state"] != "done")
        if worth_a_line and row["state"] != "skipped":
            tqdm.write(f"[{self.settled:3}/{self.total}] {sentence(row)}")

    def close(self) -> None:
        """None; the study's bar stays, the notebooks' lines go."""
        for line in (*self.lines, self.bar):
            line.close()

    def _show_live(self, texts):
        while len(self.lines) < len(texts):
            position = len(self.lines) + 1
            line = tqdm(total=0, bar_format="{desc}", position=position, leave=False)
            self.lines.append(line)
        # a line whose notebook has ended stays, empty
        for line, text in zip_longest(self.lines, texts, fillvalue=""):
            line.set_description_str(text)


def doing(folder: Path) -> str:
    """str, what a running notebook is at: its cell; in training the epoch, kappa and time left."""
    holder = lease.holder(folder) or {}
    training = read_json(folder / "progress.json")
    parts = ["starting"]
    if "cell" in holder:
        parts = [f"cell {holder['cell']} of {holder['cells']}"]
    if training.get("epoch", 0) < training.get("epochs", 0):  # once trained, the cell says more
        parts.append(f"epoch {training['epoch']}/{training['epochs']}")
        if training.get("kappa") is not None:
            parts.append(f"kappa {training['kappa']:.2f}")
        if training.get("seconds_left"):
            parts.append(f"{duration(training['seconds_left'])} left")
    return ", ".join(parts)


def sentence(row: dict) -> str:
    """str, what became of a task, with the cell and the error's last line where it failed."""
    text = f"{row['task']}: {row['state']}"
    if row["seconds"] and row["state"] != "skipped":
        text += f" in {duration(row['seconds'])}"
    if row.get("again"):
        text += ", is tried again"
    if row["cell"]:
        text += f" (cell {row['cell']} of failed.ipynb)"
    if row["error"]:
        text += f": {row['error'].splitlines()[-1]}"
    return text


def duration(seconds: float | None) -> str:
    """str, a length of time for people; None is unknown."""
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _in_notebook():
    """bool; a notebook has a shell of IPython, a log file has not even loaded it."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
