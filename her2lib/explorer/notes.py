"""Notes of readers on patches: one CSV for each reader, whole on the disk after every note."""

import csv
import io
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from filelock import FileLock

from her2lib.files import make_folder
from her2lib.scores import SCORES, parse_score

COLUMNS = ("time", "reader", "patch", "score", "note")


def add_note(folder: Path | str, reader: str, patch: str, score: str, note: str) -> Path:
    """Path of the reader's CSV, which has one row more on the disk when this returns.

    folder: where readers' files lie; score: a proposed score as written ("2+"), or "" for none.
    Raises ValueError without a reader's name and for a score that is none. A row that a kill cut
    short is dropped by the next note. `add_note(study.folder / "notes", "Dr. A", "p7", "2+", "")`.
    """
    reader, patch, note = (_one_line(text) for text in (reader, patch, note))
    if not reader:
        raise ValueError("Give your name as reader first: every note carries it.")
    time = datetime.now(UTC).isoformat(timespec="seconds")
    if score:
        score = SCORES[parse_score(score)]
    row = (time, reader, patch, score, note)

    file = make_folder(folder) / f"{_file_stem(reader)}.csv"
    # Two notebooks of one reader write one after the other, and what a kill left is cut off.
    with FileLock(file.with_suffix(".lock")), open(file, "a+b", buffering=0) as out:
        out.seek(0)
        whole_bytes = out.read().rfind(b"\n") + 1
        out.truncate(whole_bytes)
        rows = [row]
        if whole_bytes == 0:
            rows = [COLUMNS, row]
        out.write(_csv_bytes(rows))
        # Only what the disk has confirmed is acknowledged: a kill right after loses nothing.
        os.fsync(out.fileno())
    return file


def read_notes(folder: Path | str) -> pd.DataFrame:
    """DataFrame (time, reader, patch, score, note) of all readers' notes, whole rows, oldest first.

    folder: where `add_note` wrote; an empty table where nobody has. Raises ValueError for a file
    that is no such table any more. `read_notes("notes")`.
    """
    tables = [pd.DataFrame(columns=COLUMNS)]  # so that no file is an empty table
    for file in sorted(Path(folder).glob("*.csv")):
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole:
            tables.append(_parse_notes(file, whole))
    notes = pd.concat(tables)[list(COLUMNS)]
    return notes.sort_values("time", kind="stable", ignore_index=True)


def _parse_notes(file, content):
    """DataFrame of str of one reader's file; a ValueError where somebody saved it as another."""
    try:
        header, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is no table of notes: save it as 'CSV UTF-8'.") from error
    if header != list(COLUMNS):
        raise ValueError(
            f"{file} begins with {','.join(header)[:80]!r}: save it with commas and the header "
            f"{','.join(COLUMNS)}."
        )
    for number, row in enumerate(rows, 2):
        if len(row) != len(COLUMNS):
            raise ValueError(f"{file} row {number} has {len(row)} cells, not {len(COLUMNS)}.")
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)


def _one_line(text):
    return re.sub(r"\s*[\r\n]+\s*", " ", str(text)).strip()


def _file_stem(reader):
    """str, a reader's name as a file name, at most 50 characters."""
    return re.sub(r"[^\w-]+", "_", reader)[:50]


def _csv_bytes(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
