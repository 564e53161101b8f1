"""Manifests -> rows as they were written: a table that names each patch with its score."""

import re
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from her2lib import scores
from her2lib.files import DataError
from her2lib.intake import columns
from her2lib.intake.choices import FIND_OUT, Choices
from her2lib.intake.layout_sentences import count_text
from her2lib.intake.table_files import TEXTS, WORKBOOKS
from her2lib.intake.table_paths import locate_files
from her2lib.intake.text_tables import TextTable, heading_key, meant_column, read_text_table

# What a manifest may be called, apart from its stem.
SUFFIXES = (*TEXTS, *WORKBOOKS)
# The first of these that is there names the patch of a row.
PATH_COLUMNS = ("path", "patch", "name")
# What columns may be that are not read as such: a fold is often a number, which tells no set.
_NEAR = {
    "fold": "set",
    "reader": "rater_",
    "core": "slide",
    "block": "slide",
    "specimen": "slide",
    "sample": "slide",
    "subject": "patient",
    "mrn": "patient",
    "pixel_size": "mpp",
    "pixel_size_um": "mpp",
    "um_per_pixel": "mpp",
    "resolution": "mpp",
}
# So many columns that are not read are named, the others counted.
SHOWN_COLUMNS = 8
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
    notes += _unread_columns_note(table, used)
    if "score_given" not in table.cells:
        # Of a consensus the folders hold the scores of before, which score_given keeps.
        notes += _folders_note(rows["path"], rows["score"], choices)
    rows["file"] = _file_names(rows["path"], table)
    for column in ("path", "he"):
        if column in rows:
            rows[column], sentences = locate_files(
                csv.parent, rows[column].tolist(), allow=choices.allow, table=csv.name
            )
            notes += sentences
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
        shown = ", ".join(sorted(map(repr, empty)))
        of_column = f"of the column {table.headings[column]!r}"
        count = count_text(
            int(cells.isin(empty).sum()), f"cell {of_column} holds", f"cells {of_column} hold"
        )
        notes.append(f"{table.path.name}: {count} {shown}, read as empty.")
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


def _unread_columns_note(table, used):
    """list of a sentence on the columns that nothing is read from; empty where there are none."""
    known = {*used, *columns.OF_THE_KIT}
    unread = [table.headings[column] for column in table.cells if column not in known]
    if not unread:
        return []
    shown = ", ".join(map(repr, unread[:SHOWN_COLUMNS]))
    more = ""
    if len(unread) > SHOWN_COLUMNS:
        more = f" and {len(unread) - SHOWN_COLUMNS} more"
    return [f"{table.path.name}: columns that are not read: {shown}{more}."]


def _folders_note(paths, texts, choices):
    """list of a sentence on rows whose folder is named by another score; empty without such."""
    folders = [path.replace("\\", "/").rpartition("/")[0].rpartition("/")[2] for path in paths]
    by_folder = columns.parse_written_scores(folders, choices.score_words)
    by_table = columns.parse_written_scores(texts, choices.score_words)
    # Bare numbers are as often patients, and so are folders of which some are no scores.
    if min(by_folder, default=-1) < 0 or all(folder.isdigit() for folder in folders):
        return []
    pairs = zip(by_folder, by_table, strict=True)
    differ = [i for i, (one, other) in enumerate(pairs) if other >= 0 and one != other]
    if not differ:
        return []
    first = paths.iloc[differ[0]]
    return [
        f"{len(differ):,} of {len(folders):,} rows have another score than the folder of their "
        f"file, as {first}: the table counts."
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
    key = heading_key(re.sub(r"[()\[\]]", "", heading))
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
