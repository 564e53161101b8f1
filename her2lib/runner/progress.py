"""What running notebooks are doing, in words and in bars: for a terminal, a notebook and a log file."""

import sys
import time
from itertools import zip_longest

from tqdm.auto import tqdm

from her2lib.files import read_json
from her2lib.runner import lease

LIVE_SECONDS, LOG_SECONDS = (
    0.5,
    60,
)  # between two looks at the running notebooks: for eyes, and for a log file


class Board:
    """One bar for the study and a line per running notebook; in a log file plain lines without control characters."""

    def __init__(self, total, progress):
        shell = getattr(
            sys.modules.get("IPython"), "get_ipython", lambda: None
        )()  # a notebook has one, a log file has not
        self.live = progress and (sys.stderr.isatty() or shell is not None)
        self.plain, self.total, self.settled, self.next = progress and not self.live, total, 0, 0
        self.lines = []
        self.bar = tqdm(total=total, desc="notebooks", unit="notebook", disable=not self.live)

    def show(self, tasks):
        """None; one line per running notebook, from time to time."""
        if time.monotonic() < self.next or not (self.live or self.plain):
            return
        self.next = time.monotonic() + (LIVE_SECONDS if self.live else LOG_SECONDS)
        texts = [f"{task.name}: {doing(task.folder)}" for task in tasks]
        for text in texts if self.plain else ():
            print(f"{'':10}{text}", flush=True)
        while self.live and len(self.lines) < len(texts):
            self.lines.append(
                tqdm(total=0, bar_format="{desc}", position=len(self.lines) + 1, leave=False)
            )
        for line, text in zip_longest(self.lines, texts if self.live else (), fillvalue=""):
            line.set_description_str(text)

    def settle(self, row):
        """None; one task less to wait for, or one more attempt."""
        once = not row.get("again")
        self.settled += once
        self.bar.update(once)
        if row["state"] != "skipped" and (self.plain or (self.live and row["state"] != "done")):
            tqdm.write(f"[{self.settled:3}/{self.total}] {sentence(row)}")

    def close(self):
        """None; the study's bar stays, the notebooks' lines go."""
        for line in (*self.lines, self.bar):
            line.close()


def doing(folder):
    """str, what a running notebook is at: the cell, and in training the epoch, validation kappa and time left."""
    held, at = lease.holder(folder) or {}, read_json(folder / "progress.json")
    words = [f"cell {held['cell']} of {held['cells']}"] if "cell" in held else ["starting"]
    if at.get("epoch", 0) < at.get("epochs", 0):  # once trained, the cell says more
        words.append(f"epoch {at['epoch']}/{at['epochs']}")
        words += [f"kappa {at['kappa']:.2f}"] if at.get("kappa") is not None else []
        words += [f"{duration(at['seconds_left'])} left"] if at.get("seconds_left") else []
    return ", ".join(words)


def sentence(row):
    """str, what became of a task, with the cell and the error's last line where it failed."""
    took = f" in {duration(row['seconds'])}" if row["seconds"] and row["state"] != "skipped" else ""
    where = f" (cell {row['cell']} of failed.ipynb)" if row["cell"] else ""
    again = ", is tried again" if row.get("again") else ""
    return f"{row['task']}: {row['state']}{took}{again}{where}" + (
        f": {row['error'].splitlines()[-1]}" if row["error"] else ""
    )


def duration(seconds):
    """str, a length of time for people; None is unknown."""
    if seconds is None:
        return "unknown"
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
