"""One reader for every table that people bring: CSV in any dialect and .xlsx, read as it is meant.

What was read and as what stands in the table that comes back; what could mean two things is
refused with the row and the column.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.files import DataError, write_bytes
from her2lib.intake.layout_sentences import count_text
from her2lib.intake.table_files import (
    HEAD_ROWS,
    RawTable,
    encode_rows,
    read_raw_tables,
    whole_table,
)

# Words of headings, as heading_key writes them -> the column that is meant.
COLUMN_WORDS = {
    "path": "path",
    "file": "path",
    "filename": "path",
    "file_name": "path",
    "filepath": "path",
    "file_path": "path",
    "image": "path",
    "image_name": "path",
    "image_path": "path",
    "image_file": "path",
    "img": "path",
    "img_path": "path",
    "patch": "patch",
    "patch_name": "patch",
    "patch_id": "patch",
    "name": "name",
    "code": "code",
    "score": "score",
    "label": "score",
    "class": "score",
    "her2": "score",
    "her2_score": "score",
    "ihc_score": "score",
    "slide": "slide",
    "slide_id": "slide",
    "slide_name": "slide",
    "wsi": "slide",
    "wsi_id": "slide",
    "wsi_name": "slide",
    "patient": "patient",
    "patient_id": "patient",
    "case": "patient",
    "case_id": "patient",
    "mpp": "mpp",
    "um_per_px": "mpp",
    "microns_per_pixel": "mpp",
    "micrometres_per_pixel": "mpp",
    "set": "set",
    "split": "set",
    "subset": "set",
    "partition": "set",
    "he": "he",
    "he_path": "he",
    "he_image": "he",
    "reader": "reader",
    "rater": "reader",
    "pathologist": "reader",
    "observer": "reader",
    "reading": "reading",
    "reread": "reread",
    "remark": "remark",
    "remarks": "remark",
    "comment": "remark",
    "comments": "remark",
    "note": "remark",
    "notes": "remark",
}
# Words of other languages, as heading_key writes them: hints, as nobody checked them all.
FOREIGN_WORDS = {
    "bild": "path",
    "bildname": "path",
    "bilddatei": "path",
    "datei": "path",
    "dateiname": "path",
    "pfad": "path",
    "fichier": "path",
    "nom_du_fichier": "path",
    "chemin": "path",
    "archivo": "path",
    "imagen": "path",
    "bewertung": "score",
    "befund": "score",
    "klasse": "score",
    "classe": "score",
    "resultat": "score",
    "ergebnis": "score",
    "puntuación": "score",
    "her2_status": "score",
}
OTHER_MEASURES = ("h_score", "hscore", "iscore", "allred_score")
# A short row that ends before one of these could have lost any cell: it is refused.
_KNOWN_COLUMNS = set(COLUMN_WORDS.values()) - {"remark"}
# What stands above the index of a table: nothing, or, read and written once more by pandas or R,
# these.
_UNNAMED = re.compile(r"Unnamed: \d+|index|rownames|X")
_EXCEL_TEXT = re.compile(r'^="(.*)"$', re.DOTALL)


@dataclass(frozen=True)
class TextTable:
    """A table as people wrote it: cells as text, and how they were found in its file."""

    path: Path
    cells: pd.DataFrame  # str, stripped, NFC; known headings by their column, others as written
    line: np.ndarray  # (N,) int, the row of each in the program that shows the file
    dialect: str  # "semicolons, UTF-16, header in line 3"
    notes: list[str]  # what was left out or could be overlooked
    headings: dict[str, str] = field(default_factory=dict)  # column of cells -> as written
    titles: list[list[str]] = field(default_factory=list)  # rows above the header
    raw: RawTable = field(
        default_factory=lambda: RawTable([], "")
    )  # of no rows: dialect of the file

    def where(self, row: int, column: str) -> str:
        """str, "ratings.csv row 5, column 'anna'" of a cell, row counted from 0."""
        heading = self.headings.get(column, column)
        return f"{self.path.name} row {self.line[row]}, column {heading!r}"


def read_text_table(
    path: Path | str,
    *,
    needed: Sequence[str | tuple[str, ...]] = (),
    optional: Sequence[str] = (),
) -> TextTable:
    """TextTable of a .csv, .tsv, .txt or .xlsx file in whatever dialect it was written.

    needed: columns that must be there, by any of their words in COLUMN_WORDS; a tuple names
    several of which one must be. They tell the header from titles above it, the separator from
    commas within cells, and the sheet of a workbook from others.
    optional: further columns that will be used, so that two columns for one are refused.
    Raises DataError, in one sentence that names row and column, where something is missing or
    could mean two things.

    Example: read_text_table("patients.csv", needed=("slide", "patient")).cells
    """
    path = Path(path)
    wanted = [_alternatives(names) for names in needed]
    head, header_row = _choose_table(path, read_raw_tables(path), wanted)
    raw = whole_table(path, head)
    headings = [_clean(text) for text in raw.rows[header_row]]
    rows, line, notes = _body(path, raw.rows, header_row, headings)
    columns, left_out = _columns(path, headings, rows, {*sum(wanted, ()), *optional})

    dialect = raw.dialect
    titles = raw.rows[:header_row]
    if header_row:
        dialect += f", header in line {header_row + 1}"
    if any(map(any, titles)):
        notes.insert(0, f"The rows above the header (row {header_row + 1}) are titles, not read.")
    cells = pd.DataFrame({name: column for name, (_, column) in columns.items()}, dtype=object)
    return TextTable(
        path=path,
        cells=cells.reindex(range(len(rows))),
        line=np.array(line, int),
        dialect=dialect,
        notes=[*raw.notes, *notes, *left_out],
        headings={name: heading for name, (heading, _) in columns.items()},
        titles=titles,
        raw=replace(raw, rows=[]),
    )


def write_text_table(table: TextTable, cells: pd.DataFrame, *, path: Path | None = None) -> Path:
    """Path of the file of a table, written whole with other cells in its dialect and headings.

    cells: columns under the names of table.cells; new ones keep their names.
    Raises DataError for a workbook, whose formats would be lost.

    Example: write_text_table(table, table.cells.assign(score="2+"))
    """
    refuse_workbook(table)
    header = [table.headings.get(column, column) for column in cells]
    rows = [*table.titles, header, *cells.fillna("").astype(str).to_numpy().tolist()]
    return write_bytes(path or table.path, encode_rows(rows, table.raw))


def refuse_workbook(table: TextTable) -> None:
    """Raises DataError where a table lies in a workbook, which is read but never written."""
    if not table.raw.separator:
        raise DataError(
            f"{table.path} is a workbook, which is read but not written: save it as 'CSV UTF-8' "
            f"and name that file."
        )


def heading_key(heading: str) -> str:
    """str, a heading in lower case with _ for what parts its words: "Slide ID" is slide_id."""
    text = unicodedata.normalize("NFKC", heading).strip().casefold().rstrip(":")
    text = text.replace("μ", "u").replace("/", " per ")
    return re.sub(r"[\s_.\-]+", "_", text).strip("_")


def meant_column(heading: str) -> str:
    """str, the column that a heading is a word for; "" for none."""
    return COLUMN_WORDS.get(heading_key(heading), "")


# --- which separator, sheet and header ----------------------------------------------------------


def _alternatives(names):
    if isinstance(names, str):
        return (names,)
    return tuple(names)


def _choose_table(path, raw_tables, wanted):
    """(raw, row of the header) of the way of reading a file that finds the columns wanted."""
    header_rows = [_find_header(raw.rows, wanted) for raw in raw_tables]
    fitting = [i for i, row in enumerate(header_rows) if row is not None]
    if not fitting:
        raise DataError(_missing_sentence(path, raw_tables, wanted))
    sheets = [repr(raw_tables[i].sheet) for i in fitting if raw_tables[i].sheet]
    if len(sheets) > 1:
        raise DataError(
            f"{path} holds the table in the sheets {', '.join(sheets[:5])}: delete the others, "
            f"or save the right one as 'CSV UTF-8'."
        )
    # Of two separators that find the columns, the one that finds more of them.
    widths = [len(raw_tables[i].rows[header_rows[i]]) for i in fitting]
    if not wanted:
        widths = [_rows_of_one_width(raw_tables[i].rows[header_rows[i] :]) for i in fitting]
    best = fitting[int(np.argmax(widths))]
    return raw_tables[best], header_rows[best]


def _rows_of_one_width(rows):
    """int, how many rows are as wide as the first; 0 where that is one cell."""
    width = len(rows[0])
    if width == 1:
        return 0
    return sum(len(row) == width for row in rows[:HEAD_ROWS])


def _find_header(rows, wanted):
    """int, the first row that holds all columns wanted; None where no row does.

    Where nothing is wanted, the first row that is as wide as most.
    """
    filled = [sum(bool(cell.strip()) for cell in row) for row in rows[:HEAD_ROWS]]
    if not wanted:
        wide = [count for count in filled if count > 1]
        usual = min(1, max(filled, default=0))
        if wide:
            usual = max(wide, key=wide.count)
        return next((i for i, count in enumerate(filled) if count >= usual > 0), None)
    for i, row in enumerate(rows[:HEAD_ROWS]):
        meant = {meant_column(cell) for cell in row}
        if all(meant.intersection(names) for names in wanted):
            return i
    return None


def _missing_sentence(path, raw_tables, wanted):
    """str, which column is missing, and the headings that are there."""
    widest = max(raw_tables, key=_columns_of_head)
    i = _find_header(widest.rows, ())
    headings = [_clean(cell)[:40] for cell in widest.rows[i or 0]]
    meant = set(map(meant_column, headings))
    missing = [names for names in wanted if not meant.intersection(names)]
    if not missing or i is None:
        return f"{path} is no table: give it a header and rows."
    shown = ", ".join(map(repr, headings[:12]))
    columns = " and no column ".join(repr(names[0]) for names in missing)
    hints = [hint for names in missing for hint in _perhaps_meant(names, headings)]
    hint = ""
    if hints:
        hint = f" (perhaps {' and '.join(hints)})"
    remedy = "name it so"
    if len(missing) > 1:
        remedy = "name them so"
    return f"{path} has no column {columns}, only {shown}: {remedy}{hint}."


def _perhaps_meant(names, headings):
    """list of the heading that may be one of the columns wanted, in quotes; empty for none."""
    for heading in headings:
        if FOREIGN_WORDS.get(heading_key(heading)) in names:
            return [repr(heading)]
    of_lower = {heading.casefold(): heading for heading in headings if heading}
    close = get_close_matches(names[0], of_lower, n=1)
    # An H-score, of 0 to 300, is another measure.
    if close and heading_key(close[0]) not in OTHER_MEASURES:
        return [repr(of_lower[close[0]])]
    return []


def _columns_of_head(raw):
    """int, the most cells in one of the first rows."""
    return max(map(len, raw.rows[:HEAD_ROWS]), default=0)


# --- rows ---------------------------------------------------------------------------------------


def _body(path, all_rows, header_row, headings):
    """(rows as wide as the header, their row numbers, sentences); DataError for any other row."""
    rows = all_rows[header_row + 1 :]
    filled = [any(map(str.strip, row)) for row in rows]
    while filled and not filled[-1]:
        filled.pop()
    notes = []
    n_blank = filled.count(False)
    if n_blank:
        count = count_text(n_blank, "blank row between others is", "blank rows between others are")
        notes.append(f"{count} left out.")
    numbered = [(header_row + 2 + i, rows[i]) for i, full in enumerate(filled) if full]
    if _is_table_of_r(numbered, headings):
        headings.insert(0, "")
    n_short = _check_widths(path, numbered, headings)
    if n_short:
        count = count_text(n_short, "row ends", "rows end")
        notes.append(f"{count} before the last column: what is missing reads as empty.")
    width = len(headings)
    body = [row[:width] + [""] * (width - len(row)) for _, row in numbered]
    return body, [number for number, _ in numbered], notes


def _is_table_of_r(numbered, headings):
    """bool, whether each row has one cell more than the header, and the first counts the rows.

    So R's write.table writes the names of rows, without a heading above them.
    """
    if not numbered or any(len(row) != len(headings) + 1 for _, row in numbered):
        return False
    return _are_numbers([row[0].strip() for _, row in numbered])


def _check_widths(path, numbered, headings):
    """int, how many rows lack cells that may be lacking; DataError for a wrong number of cells."""
    width = len(headings)
    known = [i for i, text in enumerate(headings) if meant_column(text) in _KNOWN_COLUMNS]
    least = max(known, default=width - 1) + 1
    n_short = 0
    wrong = []
    for number, row in numbered:
        if len(row) < least or (len(row) > width and any(map(str.strip, row[width:]))):
            wrong.append((number, len(row)))
        elif len(row) < width:
            n_short += 1
    if not wrong:
        return n_short
    others = ""
    if len(wrong) > 1:
        others = f" (and {len(wrong) - 1} rows more)"
    number, count = wrong[0]
    remedy = "give every row as many cells as the header"
    if count > width:
        remedy = "put cells that hold the separator in quotation marks"
    cells = "1 cell" if count == 1 else f"{count} cells"
    raise DataError(
        f"{path} is no table: row {number}{others} has {cells} where the header has "
        f"{width}: {remedy}."
    )


# --- columns ------------------------------------------------------------------------------------


def _columns(path, headings, rows, used):
    """({column: (heading as written, cells)}, sentences) of all columns but those left out."""
    columns = []
    notes = []
    for i, heading in enumerate(headings):
        cells = _clean_column([row[i] for row in rows])
        unnamed = not heading or heading.startswith("Unnamed: ")
        if (unnamed and _are_numbers(cells)) or (_UNNAMED.fullmatch(heading) and _counts(cells)):
            name = repr(heading) if heading else "no heading"
            notes.append(f"Column {i + 1} ({name}) counts the rows: left out as an index.")
        elif heading:
            columns.append((heading, cells))
        elif any(cells):
            columns.append((f"column {i + 1}", cells))
            notes.append(f"Column {i + 1} has no heading: it is not read.")
    columns = _without_doubles(path, columns, notes)
    meaning = _meanings(path, columns, used)
    named = {}
    for heading, cells in columns:
        name = meaning.get(heading, heading)
        # A remark is nowhere read as anything.
        if heading_key(heading) != name and name not in (heading, "remark"):
            notes.append(f"The column {heading!r} is read as {name}.")
        named[name] = (heading, cells)
    return named, notes


def _without_doubles(path, columns, notes):
    """list of columns, one of each that differ in capitals only and hold the same."""
    by_key: dict[str, tuple] = {}
    for heading, cells in columns:
        key = unicodedata.normalize("NFKC", heading).casefold()
        if key not in by_key:
            by_key[key] = (heading, cells)
        elif by_key[key][1] == cells:
            notes.append(f"The column {heading!r} stands there twice with the same cells.")
        else:
            raise DataError(
                f"{path}: two columns are named {by_key[key][0]!r} and {heading!r} and hold "
                f"different cells: give each a name of its own, or delete one."
            )
    return list(by_key.values())


def _meanings(path, columns, used):
    """dict heading -> column of COLUMN_WORDS; the heading that is the column itself comes first."""
    candidates: dict[str, list] = {}
    for heading, cells in columns:
        meant = meant_column(heading)
        if meant:
            candidates.setdefault(meant, []).append((heading, cells))
    meaning = {}
    for meant, those in candidates.items():
        exact = [heading for heading, _ in those if heading_key(heading) == meant]
        first, cells = those[0]
        if len(exact) == 1:
            meaning[exact[0]] = meant
        elif all(other == cells for _, other in those):
            meaning[first] = meant
        elif meant in used:
            shown = " and ".join(repr(heading) for heading, _ in those[:3])
            raise DataError(
                f"{path}: the columns {shown} could each be {meant!r} and hold different cells: "
                f"name the right one {meant!r}."
            )
    return meaning


# --- cells --------------------------------------------------------------------------------------


def _clean(text):
    """str, stripped, in the composed form of Unicode."""
    text = text.strip()
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text)


def _clean_column(cells):
    """list of str, cleaned; ="3+", by which spreadsheets are told a text, is 3+."""
    cells = list(map(_clean, cells))
    if not any(cell.startswith('="') for cell in cells):
        return cells
    return [_EXCEL_TEXT.sub(r"\1", cell) for cell in cells]


def _are_numbers(cells):
    """bool, whether cells are whole numbers, each another one: the index of a table, also sorted.

    A reader's scores above whom no name stands would repeat.
    """
    if not cells or not all(re.fullmatch(r"\d+(?:\.0)?", cell) for cell in cells):
        return False
    return len(set(cells)) == len(cells)


def _counts(cells):
    """bool, whether cells count 0, 1, 2 … or 1, 2, 3 …"""
    if not _are_numbers(cells):
        return False
    numbers = [int(float(cell)) for cell in cells]
    return numbers in (list(range(len(cells))), list(range(1, len(cells) + 1)))
