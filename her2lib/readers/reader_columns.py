"""Which columns of a table are readers: those that are named, else those that hold scores alone.

A slide, a batch or a row number that is taken for a reader changes scores without a word, so every
column is judged, what was taken and left is said, and what could be either is refused.
"""

import re
from collections.abc import Mapping, Sequence

from her2lib import scores
from her2lib.files import DataError
from her2lib.intake.columns import NO_WORDS
from her2lib.intake.text_tables import COLUMN_WORDS, TextTable, heading_key

# What a heading begins with that says itself that a reader stands below it.
PREFIXES = ("rater_", "reader_")
# Headings of which none is a reader, whatever stands below; as heading_key writes them.
NO_READERS = set(COLUMN_WORDS) | set(COLUMN_WORDS.values())
NO_READERS |= {
    "id", "index", "nr", "no", "number", "row", "x", "y", "batch", "block", "site", "centre",
    "center", "scanner", "lab", "laboratory", "magnification", "date", "time", "age", "sex",
    "gender", "year", "grade", "stage", "er", "pr", "ki67", "ki_67", "ish", "fish", "cep17",
    "remark", "diagnosis", "type", "histology", "necrosis", "tumour", "tumor", "control",
    "duplicate", "repeat", "round", "order", "weight", "consensus", "score_given", "dab",
    "percent", "percentage", "proportion", "intensity", "h_score", "hscore", "allred", "status",
    "her2_status", "tissue", "sharpness", "fold", "cluster", "group", "cohort", "unnamed_0",
    "quality",
}  # fmt: skip


# What the rows of a table are told by, not worth a sentence that it is no reader.
_KEYS = ("patch", "path", "name", "reading")
_BARE_NUMBER = re.compile(r"\d+(?:[.,]0+)?")
_NAMELESS = re.compile(r"(?:unnamed|column)_\d+")
READER, UNCLEAR, LEFT_OUT = range(3)


def reader_columns(
    table: TextTable, *, readers: Sequence[str] = (), score_words: Mapping[str, str] = NO_WORDS
) -> tuple[dict[str, str], list[str]]:
    """({reader: column of the table}, sentences on the columns that were left out).

    readers: their names, where the user states them; then no other column is read.
    score_words: texts that a study declares as scores.
    Raises DataError where a column could be a reader or something else, and where there is none.

    reader_columns(read_text_table("readings.csv"), readers=["anna", "ben"])
    """
    if readers:
        return _named_columns(table, readers)
    # Whoever writes 2+ in one column does so in all.
    plus_signs = any(cells.str.contains("+", regex=False).any() for _, cells in table.cells.items())
    column_of: dict[str, str] = {}
    unclear = []
    left_out = []
    for column in table.cells:
        verdict, why = _judge_column(column, table.cells[column], score_words, plus_signs)
        if verdict == READER:
            _add_reader(table, column_of, reader_name(column), column)
        elif verdict == UNCLEAR:
            unclear.append((column, why))
        elif column not in _KEYS:
            left_out.append(f"{table.headings[column]!r} ({why})")
    if unclear:
        column, why = unclear[0]
        raise DataError(
            f"{table.path}: the column {column!r} holds {why}: name the columns that are readers, "
            f"--readers {' '.join([*column_of, 'NAME'])}."
        )
    if not column_of:
        raise DataError(
            f"{table.path}: no column holds scores alone under a reader's name, only "
            f"{', '.join(left_out) or 'names of patches'}: name the columns that are readers, "
            f"--readers NAME NAME."
        )
    return column_of, _left_out_sentence(table, left_out)


def reader_name(heading: str) -> str:
    """str, the reader that a heading names: "anna" of "rater_anna"."""
    for prefix in PREFIXES:
        if heading.casefold().startswith(prefix):
            return heading[len(prefix) :].strip()
    return heading.strip()


# --- helpers ------------------------------------------------------------------------------------


def _named_columns(table, readers):
    """({reader: column}, sentences) of the readers that a user names."""
    columns = {reader_name(column).casefold(): column for column in table.cells}
    columns |= {heading.casefold(): column for column, heading in table.headings.items()}
    column_of: dict[str, str] = {}
    for reader in readers:
        column = columns.get(reader.casefold(), columns.get(reader_name(reader).casefold()))
        if column is None:
            shown = ", ".join(repr(heading) for heading in table.headings.values())
            raise DataError(f"{table.path} has no column of {reader!r}, only {shown}: correct it.")
        _add_reader(table, column_of, reader_name(reader), column)
    others = [column for column in table.cells if column not in {*column_of.values(), *_KEYS}]
    left_out = [f"{table.headings[column]!r} (not named)" for column in others]
    return column_of, _left_out_sentence(table, left_out)


def _add_reader(table, column_of, reader, column):
    """None; adds a reader to column_of. DataError where two columns would be one reader."""
    for other in column_of:
        if other.casefold() == reader.casefold():
            raise DataError(
                f"{table.path}: two columns are named {reader!r}, give each reader a name of "
                f"their own."
            )
    column_of[reader] = column


def _left_out_sentence(table, left_out):
    if not left_out:
        return []
    return [f"{table.path.name}: left out as no reader: {', '.join(left_out)}."]


def _judge_column(column, cells, score_words, plus_signs):
    """(READER, UNCLEAR or LEFT_OUT, why) of a column, by its heading and all that it holds."""
    key = heading_key(column)
    if column.casefold().startswith(PREFIXES):
        return READER, ""
    if key in NO_READERS:
        return LEFT_OUT, "a known word"
    if _NAMELESS.fullmatch(key):
        return LEFT_OUT, "no name above it"
    texts = [text for text in cells if not scores.is_missing(text)]
    if not texts:
        return LEFT_OUT, "empty"
    is_score = {text: _is_score(text, score_words) for text in set(texts)}
    n_scores = sum(is_score[text] for text in texts)
    if n_scores < len(texts) / 2:
        return LEFT_OUT, f"{n_scores} of {len(texts)} cells are scores"
    values = {text for text in set(texts) if is_score[text]}
    if not any(map(_has_digit, values)):
        shown = ", ".join(map(repr, sorted(values)[:3]))
        return UNCLEAR, f"only {shown}: scores in words, or another finding"
    if not all(_BARE_NUMBER.fullmatch(text) for text in values):
        # With a plus sign they are scores, so what is none among them is a slip to be named.
        return READER, ""
    numbers = {int(float(text.replace(",", "."))) for text in values}
    wrong = [text for text in texts if not is_score[text]]
    return _judge_numbers(numbers, wrong, plus_signs)


def _judge_numbers(numbers, wrong, plus_signs):
    """(verdict, why) of a column whose scores are bare numbers; wrong: its texts that are none."""
    shown = ", ".join(map(str, sorted(numbers)))
    if wrong:
        return UNCLEAR, f"{shown} but also {wrong[0][:20]!r}: scores with slips, or a count"
    if 0 not in numbers:
        return UNCLEAR, f"only {shown}: scores, or numbers of slides, batches or the like"
    if plus_signs and numbers == {0, 1}:
        return UNCLEAR, "only 0 and 1 where others write 1+: scores, or no and yes"
    return READER, ""


def _has_digit(text):
    return any(map(str.isdigit, text))


def _is_score(text, score_words):
    """bool, whether a text is a score, or one of the clinic's words that a study must declare."""
    try:
        scores.parse_score(text, score_words)
    except ValueError:
        return text.casefold() in scores.CLINICAL_WORDS
    return True
