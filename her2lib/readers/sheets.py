"""Blinded reading sheets: out to each reader, and back with what was filled in."""

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.data import browser_copies
from her2lib.files import DataError, fingerprint, make_folder, write_table, write_text
from her2lib.intake.columns import NO_WORDS
from her2lib.intake.text_tables import read_text_table
from her2lib.readers.patch_names import PatchNames
from her2lib.readers.readings import TIDY, check_readings, together

PAGE = Path(__file__).parent / "sheet.html"
# What a reader may save a filled sheet as; the first is what was handed out.
SHEET_NAMES = ("sheet.csv", "sheet.xlsx", "sheet.tsv", "sheet.txt")


# --- out ------------------------------------------------------------------------------------------


def write_sheets(
    table: pd.DataFrame,
    folder: Path | str,
    *,
    readers: Sequence[str],
    repeats: float = 0.1,
    seed: int = 0,
) -> Path:
    """Path of the folder that now holds a blinded sheet for each reader, and the key to them.

    Each reader's folder has sheet.csv and sheet.html to fill in, and the images under codes, in an
    order of their own. key.csv tells which code is which patch: keep it back.

    table: name, path and, if known, mpp of the patches (patches.read_table).
    folder: a new folder.  readers: their names.
    repeats: this fraction of the patches comes twice, for the agreement of a reader with himself.
    seed: of the orders and codes.

    Raises ValueError where two readers would have one folder, FileExistsError where the folder
    holds sheets already.

    write_sheets(table, "sheets/", readers=["Anna", "Ben"])
    """
    folder = Path(folder)
    names = [reader_folder(reader) for reader in readers]
    if len({name.casefold() for name in names}) < len(names) or "" in names:
        raise ValueError(
            f"Two readers have one name in {', '.join(map(str, readers))}: give each a name of "
            "their own."
        )
    if (folder / "key.csv").exists():
        raise FileExistsError(
            f"{folder} holds sheets already: choose another folder, or the key to them would be "
            "lost."
        )
    # another choice of patches has other codes
    random = np.random.default_rng([seed, int(fingerprint(list(table.name)), 16)])
    n_repeats = round(repeats * len(table))
    n_codes = (len(table) + n_repeats) * len(names)
    codes = iter(random.choice(9 * 10**7, n_codes, replace=False) + 10**7)
    key = []
    for reader, name in zip(readers, names, strict=True):
        order = _shuffled_readings(random, len(table), n_repeats)
        key += _write_sheet(folder / name, str(reader), table, order, codes)
    write_table(folder / "key.csv", pd.DataFrame(key))
    return folder


def reader_folder(reader: str) -> str:
    """str, the name of a reader's folder of sheets: letters, digits, - and _ only."""
    signs = []
    for sign in str(reader).strip():
        is_safe = sign.isalnum() or sign in "-_"
        signs.append(sign if is_safe else "_")
    return "".join(signs)


# --- back -----------------------------------------------------------------------------------------


def gather_sheets(
    folder: Path | str, *, score_words: Mapping[str, str] = NO_WORDS
) -> tuple[pd.DataFrame, list[str]]:
    """(ratings, problems), as of read_ratings, of the filled sheets in a folder of write_sheets.

    score_words: texts that a study declares as scores.
    Raises DataError where the folder has no key.
    """
    folder = Path(folder)
    key = _read_key(folder)
    names = PatchNames(key["patch"])
    parts = []
    problems = []
    for reader, key_of_reader in key.groupby("rater", sort=False):
        try:
            file, rows, sentences = _read_sheet(folder, reader, key_of_reader)
        except DataError as error:
            problems.append(f"The sheet of {reader} cannot be read: {error}")
            continue
        ratings, more = check_readings(rows, names, file, score_words=score_words)
        parts.append(ratings)
        problems += [*sentences, *more]
    return together(parts), problems


def rounds(
    folder: Path | str, *, score_words: Mapping[str, str] = NO_WORDS
) -> tuple[pd.DataFrame, list[str]]:
    """(ratings, problems) of every folder of sheets below a folder.

    A patch that was read in a later round has the readings of that round only.
    score_words: texts that a study declares as scores.
    """
    keys = sorted(Path(folder).glob("*/key.csv"), key=_time_written)
    parts = [pd.DataFrame(columns=[*TIDY, "round"])]
    problems = []
    for number, key in enumerate(keys):
        ratings, sentences = gather_sheets(key.parent, score_words=score_words)
        parts.append(ratings.assign(round=number))
        problems += [f"{key.parent.name}: {sentence}" for sentence in sentences]
    table = pd.concat(parts)
    last = table.groupby("patch")["round"].transform("max")
    return table.loc[table["round"] == last, TIDY].reset_index(drop=True), problems


# --- helpers: reading -----------------------------------------------------------------------------


def _read_key(folder):
    """DataFrame (code, patch, rater, reading) of the key to the sheets in a folder."""
    file = folder / "key.csv"
    if not file.is_file():
        raise DataError(
            f"{folder} holds no key.csv: name the folder that `her2 sheet` wrote, with a folder "
            f"for each reader in it."
        )
    table = read_text_table(file, needed=("code", "patch", "reader", "reading"))
    key = table.cells.rename(columns={"reader": "rater"})
    return key.assign(code=key["code"].map(_plain_code))


def _read_sheet(folder, reader, key):
    """(file, rows of check_readings, sentences) of what one reader filled in.

    Raises DataError where there is no sheet, or two.
    """
    name = reader_folder(reader)
    files = [folder / name / file for file in SHEET_NAMES if (folder / name / file).is_file()]
    if not files:
        raise DataError(f"it is missing, put it back as {name}/sheet.csv.")
    tables = [read_text_table(file, needed=("code", "score")) for file in files]
    filled = [table for table in tables if not table.cells["score"].map(scores.is_missing).all()]
    if len(filled) > 1:
        shown = " and ".join(table.path.name for table in filled)
        raise DataError(f"{shown} are both filled in, leave the right one.")
    table = (filled or tables)[0]
    file = f"{name}/{table.path.name}"
    sheet = table.cells[["code", "score"]].assign(line=table.line)
    sheet["code"] = sheet["code"].map(_plain_code)
    sheet = sheet.merge(key, on="code", how="left")
    sentences = []
    for row in sheet[sheet["patch"].isna()].itertuples():
        sentences.append(
            f"{file} line {row.line}: the code {row.code!r} was not given to {reader}."
        )
    return file, sheet.dropna(subset="patch"), sentences


def _plain_code(text):
    """str, a code also where a spreadsheet wrote it as a number: 12345678.0 or 12345678,0."""
    return text.removesuffix(".0").removesuffix(",0")


def _time_written(file):
    """int, when a file was last written, in nanoseconds."""
    return file.stat().st_mtime_ns


# --- helpers: writing -----------------------------------------------------------------------------


def _shuffled_readings(random, n, n_repeats):
    """list of (row, reading): all n patches shuffled, then some of them a second time."""
    first = [(row, 1) for row in random.permutation(n)]
    second = [(row, 2) for row in random.permutation(n)[:n_repeats]]
    return first + second


def _write_sheet(folder, reader, table, order, codes):
    """list of dict (code, patch, rater, reading) of one reader's sheet, after writing it."""
    make_folder(folder / "images")
    key = []
    rows = []
    for row, reading in order:
        code = str(next(codes))
        # A copy under a code, without metadata: a BCI file name ends with its score, and a link
        # would tell it.
        copy = browser_copies.write_browser_copy(table.path.iloc[row], folder / "images" / code)
        image = f"images/{copy.name}"
        mpp = None
        if "mpp" in table and table.mpp.iloc[row] > 0:
            mpp = float(table.mpp.iloc[row])
        rows.append({"code": code, "image": image, "mpp": mpp})
        patch = table.name.iloc[row]
        key.append({"code": code, "patch": patch, "rater": reader, "reading": reading})
    sheet = pd.DataFrame(rows)[["code", "image"]].assign(score="", remark="")
    write_table(folder / "sheet.csv", sheet)
    # a fresh key for the page: pages of one disk share one memory
    content = {"key": secrets.token_hex(8), "reader": reader, "rows": rows}
    content = json.dumps(content).replace("<", "\\u003c")
    page = PAGE.read_text(encoding="utf-8").replace("__SHEET__", content)
    write_text(folder / "sheet.html", page)
    return key
