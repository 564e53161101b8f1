"""Readings that people bring -> a tidy table: one row is one reading of one patch by one reader."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from her2lib import scores
from her2lib.intake.columns import NO_WORDS, is_bare_number, other_scale
from her2lib.intake.layout_sentences import count_text
from her2lib.intake.text_tables import TextTable, read_text_table
from her2lib.readers.patch_names import PatchNames
from her2lib.readers.reader_columns import reader_columns, reader_name

# The columns of a table of ratings.
TIDY = ["patch", "rater", "reading", "score"]
# The first of these that is there names the patch of a row.
PATCH_COLUMNS = ("patch", "path", "name")


@dataclass(frozen=True)
class Readings:
    """What was read from files of readings, and what was not."""

    ratings: pd.DataFrame  # patch, rater, reading, score
    problems: list[str]  # a sentence for each reading that cannot be used
    sentences: list[str]  # which columns were taken for readers, which were left out


def read_ratings(
    path: Path | str,
    *,
    patches: Iterable[str] | Mapping[str, str],
    readers: Sequence[str] = (),
    score_words: Mapping[str, str] = NO_WORDS,
) -> tuple[pd.DataFrame, list[str]]:
    """(ratings: patch, rater, reading, score; problems) of a table of readings, .csv or .xlsx.

    The table has a column patch and a column for each reader, or a row for each reading (patch,
    rater, score and, for a second one, reading).
    patches: the names that may stand in it, or a dict name -> path.
    readers: the columns that are readers; without it, those that hold scores alone.
    score_words: texts that a study declares as scores.
    A reading that cannot be used is a sentence in problems and the rest is kept. Raises DataError
    where the file is no such table, or a column could be a reader or something else.

    ratings, problems = read_ratings("readings.csv", patches=table["name"])
    """
    taken = ratings_of_table(path, patches=patches, readers=readers, score_words=score_words)
    return taken.ratings, taken.problems


def ratings_of_table(
    path: Path | str,
    *,
    patches: Iterable[str] | Mapping[str, str],
    readers: Sequence[str] = (),
    score_words: Mapping[str, str] = NO_WORDS,
) -> Readings:
    """Readings of a table, as of read_ratings, and which of its columns were taken for readers."""
    table = read_text_table(path, needed=(PATCH_COLUMNS,), optional=("reader", "score"))
    sentences = [f"{table.path.name}: {note}" for note in table.notes]
    if {"reader", "score"} <= set(table.cells):
        rows = _tidy_rows(table)
    else:
        column_of, left_out = reader_columns(table, readers=readers, score_words=score_words)
        rows = _rows_of_columns(table, column_of)
        sentences += left_out
    if readers and len(rows):
        rows, more = _of_readers(rows, readers, table.path.name)
        sentences += more
    ratings, problems = check_readings(
        rows, PatchNames(patches), table.path.name, score_words=score_words
    )
    return Readings(ratings, problems, sentences)


def check_readings(
    rows: pd.DataFrame, names: PatchNames, file: str, *, score_words: Mapping[str, str] = NO_WORDS
) -> tuple[pd.DataFrame, list[str]]:
    """(ratings, problems): the readings that can be used, and a sentence for each other one.

    rows: patch, rater, reading, score, line, all but the line as written; an empty score is no
    reading.
    """
    usable = []
    problems = []
    score_before: dict[tuple, int] = {}
    rows = rows[~rows["score"].map(scores.is_missing).astype(bool)]
    rows, doubtful = _without_other_scales(rows, file, score_words)
    problems += doubtful
    matches = names.match_all(rows["patch"])
    for row in rows.itertuples():
        rater = reader_name(row.rater)
        where = f"{file} line {row.line}, {row.rater}"
        patch, why = matches[row.patch]
        try:
            score = scores.parse_score(row.score, score_words)
            reading = _number_of_reading(row.reading)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        reading_of = (patch, rater.casefold(), reading)
        if why:
            problems.append(f"{where}: {why}.")
        elif not rater:
            problems.append(f"{where}: no reader is named, write who read {patch!r}.")
        elif reading_of in score_before:
            before = scores.score_name(score_before[reading_of])
            problems.append(
                f"{where}: {patch!r} was scored before ({before} is kept, this is "
                f"{scores.score_name(score)}); a repeat needs another number under 'reading'."
            )
        else:
            score_before[reading_of] = score
            usable.append((patch, rater, reading, score))
    return pd.DataFrame(usable, columns=TIDY), problems


def together(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """DataFrame (patch, rater, reading, score) of several tables of ratings; of none an empty one.

    Example: together([ratings, more_ratings])
    """
    table = pd.concat([pd.DataFrame(columns=TIDY), *parts], ignore_index=True)
    return table.astype({"reading": int, "score": int})


# --- helpers ------------------------------------------------------------------------------------


def _patch_cells(table):
    """Series of str, how each row of a table names its patch."""
    return table.cells[next(column for column in PATCH_COLUMNS if column in table.cells)]


def _reading_cells(table):
    """Series of str, the number of each row's reading as written; "1" where there is none."""
    if "reading" not in table.cells:
        return pd.Series("1", index=table.cells.index, dtype=object)
    cells = table.cells["reading"]
    return cells.where(cells != "", "1")


def _tidy_rows(table: TextTable) -> pd.DataFrame:
    """DataFrame of check_readings, of a table with one row a reading."""
    return pd.DataFrame(
        {
            "patch": _patch_cells(table),
            "rater": table.cells["reader"],
            "reading": _reading_cells(table),
            "score": table.cells["score"],
            "line": table.line,
        }
    )


def _rows_of_columns(table, column_of):
    """DataFrame of check_readings, of a table with a column for each reader."""
    parts = []
    for reader, column in column_of.items():
        rows = pd.DataFrame({"patch": _patch_cells(table), "rater": reader, "line": table.line})
        parts.append(rows.assign(reading=_reading_cells(table), score=table.cells[column]))
    return pd.concat(parts, ignore_index=True)


def _of_readers(rows, readers, file):
    """(rows of the readers named, a sentence on the others)."""
    wanted = {reader_name(reader).casefold() for reader in readers}
    reader = rows["rater"].map(reader_name).map(str.casefold)
    others = sorted(set(rows["rater"][~reader.isin(wanted)]))
    if not others:
        return rows, []
    sentence = f"{file}: left out, as not named under --readers: {', '.join(others)}."
    return rows[reader.isin(wanted)], [sentence]


def _without_other_scales(rows, file, score_words):
    """(rows, sentences): without the numbers of a reader whose scale is not 0 to 3."""
    doubtful = pd.Series(False, index=rows.index)
    sentences = []
    is_number = rows["score"].map(partial(is_bare_number, score_words=score_words)).astype(bool)
    for reader, texts in rows["score"].groupby(rows["rater"], sort=False):
        what, remedy = other_scale(texts, score_words)
        if what:
            mine = is_number & (rows["rater"] == reader)
            doubtful |= mine
            count = count_text(int(mine.sum()), "reading")
            sentences.append(f"{file}, {reader}: {what}, so {count} left out; {remedy}.")
    return rows[~doubtful], sentences


def _number_of_reading(text):
    """int from 1 of "1" or "1.0"; ValueError for what is no number of a reading."""
    number = str(text).replace(",", ".").strip().removesuffix(".0")
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"{str(text)[:20]!r} is no number of a reading: write 1, 2 or nothing.")
    return int(number)
