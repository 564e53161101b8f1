"""Files that hold a table -> rows of text, with where they came from: CSV in any dialect, .xlsx.

What a heading means is decided in tables; here a file is only taken apart.
"""

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from pathlib import Path

from her2lib import scores
from her2lib.files import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# Most bytes of a table, also of a workbook when unpacked: 100,000 patches are about 10 MB.
MAX_BYTES = 2**29
# A title above the header may have this many rows.
HEAD_ROWS = 40
BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": ("utf-8-sig", "UTF-8 with BOM"),
    b"\xff\xfe\x00\x00": ("utf-32", "UTF-32"),
    b"\x00\x00\xfe\xff": ("utf-32", "UTF-32"),
    b"\xff\xfe": ("utf-16", "UTF-16"),
    b"\xfe\xff": ("utf-16", "UTF-16"),
}
# What a file begins with that is called a table and is none, and what to do.
SIGNATURES = {
    b"PK\x03\x04": "is an Excel workbook or another archive by its content: name it .xlsx, or save",
    b"\xd0\xcf\x11\xe0": "is an old or locked Excel workbook by its content: save",
    b"%PDF": "is a PDF by its content: save",
    b"\x89PNG": "is a picture by its content: save",
    b"\xff\xd8\xff": "is a picture by its content: save",
    b"\x1f\x8b": "is a compressed file by its content: unpack it, or save",
}
SAVE = "the table as .xlsx or as 'CSV UTF-8'"
WORKBOOKS = (".xlsx", ".xlsm")
TEXTS = (".csv", ".tsv", ".txt", ".tab")


@dataclass(frozen=True)
class RawTable:
    """Rows of cells as text, one a row of the file, blank ones too."""

    rows: list[list[str]]
    dialect: str  # "semicolons, UTF-16", "Excel workbook, sheet 'Patches'"
    separator: str = ""  # "" for a workbook
    encoding: str = "utf-8"
    sheet: str = ""
    notes: list[str] = field(default_factory=list)


def read_raw_tables(path: Path) -> list[RawTable]:
    """list of RawTable: every way in which the separator of a text may be meant, or every sheet.

    A text that states its separator ("sep=;") has one. Of texts only the first HEAD_ROWS rows are
    there: whole_table reads the one that is chosen. Raises DataError for what is no table.
    """
    suffix = path.suffix.lower()
    content = _read_bytes(path)
    if suffix in WORKBOOKS:
        return _read_workbook(path, content)
    if suffix not in TEXTS:
        raise DataError(f"{path} is no table that can be read: save {SAVE}.")
    text, dialect, encoding = _decode(path, content)
    stated, text = _stated_separator(text)
    raw_tables = []
    for separator in stated or SEPARATORS:
        rows = _parse_head(text, separator)
        name = SEPARATORS.get(separator, f"{separator!r}")
        raw_tables.append(RawTable(rows, f"{name}, {dialect}", separator, encoding))
    return raw_tables


def whole_table(path: Path, head: RawTable) -> RawTable:
    """RawTable with every row of a file whose first rows are in a RawTable of read_raw_tables."""
    if not head.separator:
        return head
    text, _, _ = _decode(path, _read_bytes(path))
    _, text = _stated_separator(text)
    rows = _parse_text(path, text, head.separator)
    return RawTable(rows, head.dialect, head.separator, head.encoding)


def encode_rows(rows: Sequence[Sequence[str]], raw: RawTable) -> bytes:
    """bytes of a text file of rows in the dialect of a RawTable, as spreadsheets open it."""
    text = io.StringIO()
    # Any other sign was believed because the file's first line stated it.
    if raw.separator not in SEPARATORS:
        text.write(f"sep={raw.separator}\n")
    csv.writer(text, delimiter=raw.separator, lineterminator="\n").writerows(rows)
    # cp1252 and UTF-16 become UTF-8 with a mark, which holds every sign and Excel knows.
    encoding = "utf-8-sig"
    if raw.encoding == "utf-8":
        encoding = "utf-8"
    return text.getvalue().encode(encoding, "surrogateescape")


# --- text -------------------------------------------------------------------------------------


def _read_bytes(path):
    """bytes of a file; DataError where there is none, where it is locked or too large."""
    if not path.exists():
        raise DataError(f"There is no file {path}: check the path.")
    if not path.is_file():
        raise DataError(f"{path} is a folder or a device, not a table: name a file.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES >> 20} MB: this is no table of patches.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} may not be read: give yourself the right to.") from error


def _decode(path, content):
    """(text, dialect, encoding) of the bytes of a text file."""
    mark = next((mark for mark in BYTE_ORDER_MARKS if content.startswith(mark)), b"")
    for signature, what in SIGNATURES.items():
        if content.startswith(signature) and not mark:
            raise DataError(f"{path} {what} {SAVE}.")
    encoding, dialect = BYTE_ORDER_MARKS.get(mark, ("utf-8", "UTF-8"))
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if mark:
            raise DataError(f"{path} is damaged {dialect} text: save {SAVE}.") from error
        text, dialect, encoding = _decode_windows(path, content)
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise DataError(f"{path} holds NUL signs, so it is no text: save {SAVE}.")
    if not text.strip():
        raise DataError(f"{path} is no table, it is empty: give it a header and rows.")
    return text, dialect, encoding


def _decode_windows(path, content):
    """(text, dialect, encoding) of what a Windows program of western Europe wrote."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save {SAVE}.") from error
    return text, "Windows-1252 (it is not UTF-8: check names with accents)", "cp1252"


def _stated_separator(text):
    """(the separator of a first line "sep=;" or "", text without that line)."""
    match = re.match(r"\"?sep=([^\r\n])\"?[^\S\t\r\n]*(?:\r\n|\r|\n)", text, re.IGNORECASE)
    if not match:
        return "", text
    return match.group(1), text[match.end() :]


def _parse_head(text, separator):
    """list of rows, the first HEAD_ROWS; none where quotation marks make no sense of it."""
    rows = []
    # A quotation mark that never closes would take in the whole file.
    lines = io.StringIO(text[: 2**16 * HEAD_ROWS], newline="")
    try:
        for row in csv.reader(lines, delimiter=separator, skipinitialspace=True):
            rows.append(row)
            if len(rows) == HEAD_ROWS:
                break
    except csv.Error:
        return rows
    return rows


def _parse_text(path, text, separator):
    """list of rows of a text; DataError names the row where the quotation marks go wrong."""
    rows = []
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        rows.extend(reader)
    except csv.Error as error:
        raise DataError(
            f"{path} is no table from row {len(rows) + 1} on (a quotation mark opens and does not "
            f"close, or a cell has no end): put quotation marks in pairs."
        ) from error
    if reader.line_num > len(rows):
        _refuse_swallowed_rows(path, rows, separator)
    return rows


def _refuse_swallowed_rows(path, rows, separator):
    """Raises DataError where a cell of several lines holds what looks like whole rows.

    A quotation mark that was left open and one some rows later make one cell of all rows between.
    """
    width = max(len(row) for row in rows[:HEAD_ROWS])
    for number, row in enumerate(rows, 1):
        for cell in row:
            if width == 1 or not ("\n" in cell or "\r" in cell):
                continue
            lines = re.split(r"\r\n|\r|\n", cell)
            if any(line.count(separator) == width - 1 for line in lines[1:]):
                raise DataError(
                    f"{path} row {number}: a cell holds whole rows ({lines[1][:40]!r}), as when a "
                    f"quotation mark is left open: remove it, or put it in a pair."
                )


# --- workbooks --------------------------------------------------------------------------------


def _read_workbook(path, content):
    """list of RawTable, one a visible sheet that holds anything."""
    import openpyxl

    with warnings.catch_warnings():
        # Of styles and drop-down lists, which hold no cells.
        warnings.simplefilter("ignore")
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                unpacked = sum(info.file_size for info in archive.infolist())
            if unpacked > MAX_BYTES:
                raise DataError(f"{path} unpacks to {unpacked >> 20} MB: this is no such table.")
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            raw_tables = []
            for sheet in book.worksheets:
                if sheet.sheet_state == "visible":
                    raw_tables.append(_read_worksheet(path, sheet, content))
        except DataError:
            raise
        except Exception as error:  # openpyxl names no error of its own for a broken file
            raise DataError(
                f"{path} is no .xlsx workbook, is damaged or locked: save {SAVE}."
            ) from error
    raw_tables = [raw for raw in raw_tables if raw.rows]
    if not raw_tables:
        raise DataError(f"{path} is no table, it is empty: give it a header and rows.")
    return raw_tables


def _read_worksheet(path, sheet, content):
    """RawTable of one sheet: numbers as people see them, merged cells filled."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        source = archive.read(sheet._worksheet_path)
    # A file may state any size, also a million empty rows.
    sheet.reset_dimensions()
    rows = [[_value_text(value) for value in row] for row in sheet.iter_rows(values_only=True)]
    while rows and not any(rows[-1]):
        rows.pop()
    # A workbook keeps no cell behind the last that is filled in: nothing was lost there.
    width = max(map(len, rows), default=0)
    rows = [row + [""] * (width - len(row)) for row in rows]
    if re.search(rb"<f[ >/]", source):
        _fill_formulas(path, sheet.title, rows, content)
    merged = re.findall(rb'<mergeCell ref="([A-Z]+)(\d+):([A-Z]+)(\d+)"', source)
    n_merged = sum(_fill_merged(rows, *reference) for reference in merged)
    notes = []
    if n_merged:
        notes.append(f"Merged cells ({n_merged}): the value of each is taken for all its rows.")
    dialect = f"Excel workbook, sheet {sheet.title!r}"
    return RawTable(rows, dialect, sheet=sheet.title, notes=notes)


def _value_text(value):
    """str of a cell as its spreadsheet shows it: 2.0 is "2", a date is 2024-02-01."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return str(value)


def _fill_formulas(path, title, rows, content):
    """Fills cells whose formula was never computed, where the formula is a score ("=3+").

    Programs other than spreadsheets write formulas without their results, which read as empty.
    """
    import openpyxl

    sheet = openpyxl.load_workbook(io.BytesIO(content), read_only=True)[title]
    sheet.reset_dimensions()
    for number, formulas in enumerate(sheet.iter_rows(values_only=True)):
        for column, formula in enumerate(formulas):
            if number >= len(rows) or not str(formula or "").startswith("="):
                continue
            row = rows[number]
            if column < len(row) and row[column]:
                continue
            try:
                scores.parse_score(formula)
            except ValueError as error:
                raise DataError(
                    f"{path}, sheet {title!r}, row {number + 1}, column {column + 1} holds the "
                    f"formula {formula[:40]!r} and no result: open the workbook in a spreadsheet, "
                    f"save it, and try again."
                ) from error
            row[column] = formula


def _fill_merged(rows, left, top, right, bottom):
    """int, 1 where the value of a merged cell of one column was written to all its rows."""
    first, last = int(top) - 1, int(bottom)
    column = _column_number(left)
    if left != right or first >= len(rows) or column >= len(rows[first]):
        return 0
    if not rows[first][column]:
        return 0
    for row in rows[first + 1 : last]:
        row.extend([""] * (column + 1 - len(row)))
        row[column] = rows[first][column]
    return 1


def _column_number(letters):
    """int, 0 for column A, 26 for AA."""
    number = 0
    for letter in letters:
        number = number * 26 + letter - ord("A") + 1
    return number - 1
