"""Manifests -> rows as they were written: a table that names each patch with its score."""

import os
import unicodedata
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from her2lib import scores
from her2lib.files import DataError
from her2lib.intake import columns
from her2lib.intake.choices import FIND_OUT, Choices
from her2lib.intake.table_files import TEXTS, WORKBOOKS
from her2lib.intake.text_tables import TextTable, heading_key, meant_column, read_text_table

# What a manifest may be called, apart from its stem.
SUFFIXES = (*TEXTS, *WORKBOOKS)
# The first of these that is there names the patch of a row.
PATH_COLUMNS = ("path", "patch", "name")
# What columns may be that are not read as such: a fold is often a number, which tells no set.
_NEAR = {"fold": "set", "reader": "rater_"}
# A table in this dialect needs no sentence about it.
USUAL = "commas, UTF-8"


def read_manifest(
    csv: Path | str, choices: Choices = FIND_OUT
) -> tuple[Path, pd.DataFrame, list[tuple], list[str]]:
    """(root, rows, problems, notes) of a table of patches; paths are relative to its folder.

    rows: columns.RAW_COLUMNS and rater_* as written, and line, the row of each in the table.
    problems: (code in judging.PROBLEMS, file, details).  notes: how the table was read.
    choices: what the user states about the data; score_from "none" reads no scores.
    Raises DataError where the table cannot be read or lists nothing.

    Example: root, rows, problems, notes = read_manifest("my_patches/manifest.csv")
    """
    csv = Path(csv)
    has_scores = choices.score_from != "none"
    table = manifest_table(csv, has_scores=has_scores)
    if table.cells.empty:
        raise DataError(f"{csv} lists no patches: write one row per patch under path,score.")
    path_column = path_column_of(table)
    readings = rater_headings(table)
    rows = table.cells[[path_column]].set_axis(["path"], axis=1)
    rows["score"] = ""
    if has_scores:
        rows["score"] = table.cells["score"]
    notes = [f"{csv.name}: {note}" for note in table.notes]
    if table.dialect != USUAL:
        notes.insert(0, f"{csv.name} was read as {table.dialect}.")
    for column in columns.OPTIONAL_COLUMNS:
        if column in table.cells:
            rows[column] = _without_missing(table, column, notes)
    for column, heading in readings.items():
        rows[column] = table.cells[heading]

    notes += _enlarged_note(table.cells)
    used = {path_column, "score", *columns.OPTIONAL_COLUMNS, *readings.values()}
    problems = _unused_columns(table, used)
    rows["file"] = _file_names(rows["path"], table)
    rows["path"] = [_locate(csv.parent, text) for text in rows["path"]]
    if "he" in rows:
        rows["he"] = [_locate(csv.parent, text) for text in rows["he"]]
    return csv.parent, columns.as_raw_table(rows).assign(line=table.line), problems, notes


def manifest_table(csv: Path | str, *, has_scores: bool = True) -> TextTable:
    """TextTable of a manifest, with the columns that name and score each patch.

    has_scores: False for a table that need not score what it names (--score-from none).
    Raises DataError where one of the two is missing or could be either of two columns.
    """
    needed: list = [PATH_COLUMNS]
    if has_scores:
        needed.append("score")
    return read_text_table(csv, needed=needed, optional=(*columns.OPTIONAL_COLUMNS, "score_given"))


def path_column_of(table: TextTable) -> str:
    """str, the column of a manifest's cells that names the patch of each row."""
    return next(column for column in PATH_COLUMNS if column in table.cells)


def rater_headings(table: TextTable) -> dict[str, str]:
    """dict rater_<name> in lower case -> column of the cells that holds this rater's readings.

    Raises DataError where two columns would be one rater.
    """
    headings: dict[str, str] = {}
    for column in table.cells:
        rater = column.strip().lower()
        if not rater.startswith("rater_"):
            continue
        if rater in headings:
            raise DataError(
                f"{table.path}: the columns {headings[rater]!r} and {column!r} are one rater: "
                f"give each a name of its own."
            )
        headings[rater] = column
    return headings


# --- helpers ------------------------------------------------------------------------------------


def _without_missing(table, column, notes):
    """list of str, cells of a column, "" where n/a, - or the like says that nothing is known."""
    cells = table.cells[column]
    empty = {text for text in set(cells) if text and scores.is_missing(text)}
    # pandas and R write a slide that is not known as nan or NA, which would be one large slide
    if empty:
        count = cells.isin(empty).sum()
        shown = ", ".join(sorted(map(repr, empty)))
        heading = table.headings[column]
        notes.append(
            f"{table.path.name}: {count} cells of the column {heading!r} hold {shown}, "
            f"read as empty."
        )
    return cells.where(~cells.isin(empty), "").tolist()


def _enlarged_note(cells):
    """list of a sentence on the patches that `her2 tile --enlarge` made larger than scanned."""
    if columns.ENLARGED not in cells:
        return []
    texts = cells[columns.ENLARGED].str.replace(",", ".")
    factors = pd.to_numeric(texts, errors="coerce")
    if not (factors > 1).any():
        return []
    return [
        f"{(factors > 1).sum()} of {len(cells)} patches were enlarged up to {factors.max():.3g} "
        "times when they were cut from slides: they hold no finer detail than was scanned."
    ]


def _unused_columns(table, used):
    """list of problems, one for each column that is not used but seems to be meant."""
    problems = []
    for column in table.cells:
        meant = _nearly_meant(column)
        if column not in used and meant:
            heading = table.headings[column]
            problems.append(("column", table.path.name, (repr(heading), meant)))
    return problems


def _nearly_meant(heading):
    """str, the column that a heading nearly is or is another word for; "" for none."""
    meant = meant_column(heading)
    if meant in ("path", "score", *columns.OPTIONAL_COLUMNS):
        return meant
    key = heading_key(heading)
    if meant or key in _NEAR:
        return _NEAR.get(meant or key, "")
    close = get_close_matches(key, ["rater_", *columns.OPTIONAL_COLUMNS], n=1)
    if not close:
        return ""
    return close[0]


def _file_names(paths, table):
    """list of str, how a row is named to people: its path as written, or where it stands."""
    names = []
    for text, line in zip(paths, table.line, strict=True):
        names.append(text or f"(row {line} of {table.path.name})")
    return names


def _locate(folder, text):
    """str, the path of a manifest's text, also with backslashes or in the other Unicode form."""
    if not text:
        return ""
    path = os.path.join(folder, text)
    if os.path.lexists(path):
        return path
    slashes = text.replace("\\", "/")
    for form in ("NFC", "NFD"):
        other = os.path.join(folder, unicodedata.normalize(form, slashes))
        if os.path.lexists(other):
            return other
    return path
