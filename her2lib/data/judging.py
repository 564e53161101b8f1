"""What is wrong with rows and files of strangers, sentence by sentence, each with its remedy."""

import unicodedata
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.data import field
from her2lib.data.images import FAULTS
from her2lib.intake import columns
from her2lib.intake.choices import Choices
from her2lib.intake.layout_sentences import count_text

# code: (severity, what is wrong, what to do), besides the faults of single files.
# An error leaves the patch out, a warning does not.
PROBLEMS = FAULTS | {
    "outside": (
        "error",
        "the path, or a link on it, leaves the folder",
        "move the file inside, or read it where it lies: --allow {0}",
    ),
    "link": (
        "error",
        "this link to a folder leads out of the folder: nothing below it was read",
        "put the folder itself there, or read it where it lies: --allow {0}",
    ),
    "score": (
        "error",
        "{0} is not a HER2 score",
        "write one of 0, 1+, 2+, 3+{1}",
    ),
    "scale": (
        "error",
        "{0} stands among {1}",
        "{2}",
    ),
    "no place": (
        "error",
        "{0}",
        "{1}",
    ),
    "unscored": (
        "warning",
        "no score is given: neither trained nor tested on",
        "fill in the score",
    ),
    "unscored set": (
        "warning",
        "none of the {} patches has a score: `her2 score` can read them, no study can",
        "bring the scores in a manifest.csv (path,score)",
    ),
    "two scores": (
        "error",
        "its folder says {0}, its name {1}",
        "say which counts: --score-from {2}, or --score-from name",
    ),
    "set": (
        "error",
        "{} is not a set",
        "write train, val, test, external or nothing",
    ),
    "set name": (
        "warning",
        "its name says {}, its folder {}: the folder counts",
        "rename or move the file, or let the names count: --set-from name",
    ),
    "mpp": (
        "error",
        "{} is no pixel size in micrometres (0.05 to 10)",
        "write it like 0.25, or leave it empty",
    ),
    "rater": (
        "warning",
        "{} is not a reading: taken as not read",
        "write one of 0, 1+, 2+, 3+ or nothing",
    ),
    "column": (
        "warning",
        "the column {0} is not used",
        "rename it to {1} if that is what it holds",
    ),
    "name": (
        "error",
        "the name holds control signs or is not Unicode",
        "rename the file",
    ),
    "oblong": (
        "warning",
        "{}: not square, only the middle square is used",
        "export square patches",
    ),
    "size": (
        "warning",
        "{} where most are {}: at equal magnification its mpp will differ",
        "give mpp, or export one size",
    ),
    "repeat": (
        "warning",
        "the same bytes as {}: counted once",
        "delete one of the two",
    ),
    "row repeat": (
        "warning",
        "it stands in the table twice: counted once",
        "delete one of the two rows, not the file",
    ),
    "leak": (
        "error",
        "the same bytes as {}, which is in the {} set",
        "delete it here, or training sees that set",
    ),
    "field": (
        "error",
        "no H-DAB field: {}",
        "leave it out with --skip-bad, or take it as it is with --any-field",
    ),
    "conflicting": (
        "error",
        "the same bytes stand with the scores {} ({})",
        "decide on one score, delete the other file or row",
    ),
    "partner": (
        "warning",
        "its HE partner: {}",
        "bring a sound HE file if you need pairs",
    ),
    "stray": (
        "warning",
        "{}",
        "remove it, or bring what is missing",
    ),
    "cut": (
        "warning",
        "{} {} stands in {}: these sets are not independent",
        "give each slide and patient to one set",
    ),
}
# What folder_rows writes where a score should stand: what is wrong, what to do.
NO_PLACE = {
    columns.NO_SCORE_FOLDER: (
        "it lies in no folder that is a HER2 score",
        "move it into the folder of its score, or say where scores stand: --score-from",
    ),
    columns.NO_SCORE_IN_NAME: (
        "there is no score in the name, or not a HER2 score alone",
        "rename it (a_2+.png), or say where scores stand: --score-from",
    ),
}
# A slide has one stain: where so many of its fields show another, those that pass show it too. Of a
# real H&E slide in fields of 128 um, 49 of 52 are called H&E; of a slide with a partner in H&E
# under the same name it is half.
OTHER_STAINS = (field.REASONS["H&E"], field.REASONS["nuclear"])
MOST_OF_SLIDE = 0.8
LEAST_FIELDS = 5
# Of patches with the same bytes the first in this order stays: what training must not see.
DUPLICATE_ORDER = {"test": 0, "external": 1, "val": 2, "train": 3, "": 4}


# --- judging what is written ------------------------------------------------------------------
# Each of these adds (code in PROBLEMS, file, details of its sentence) to problems.


def judge_texts(rows: pd.DataFrame, problems: list, choices: Choices) -> np.ndarray:
    """(N,) bool, rows whose score, set, mpp or name cannot be used; turns text into values."""
    texts = rows[["score", "set", "mpp"]].assign(name=rows.file)
    parse_score = partial(columns.parse_written_score, words=choices.score_words)
    rows["score"] = _map_unique(texts["score"], parse_score).astype(int)
    rows["set"] = _map_unique(texts["set"], _parse_set)
    rows["mpp"] = _map_unique(texts["mpp"], _parse_mpp).astype(float)
    scale = _judge_scale(rows, texts["score"], problems, choices)
    unplaced = _judge_places(rows, texts["score"], problems)
    unusable = {
        "score": (rows["score"] == columns.NOT_A_SCORE) & ~scale & ~unplaced,
        "set": rows["set"] == "?",
        "mpp": rows["mpp"] == 0,
        "name": _map_unique(rows.file, _has_control_signs).astype(bool),
    }
    for code, mask in unusable.items():
        for file, text, cell in _cells_of(rows, code, texts[code], mask):
            problems.append((code, file, (f"{cell}{text!r}", _score_word_hint(text))))
    _judge_unscored(rows, problems)
    _judge_readings(rows, problems, choices.score_words)
    rows["name"] = columns.patch_names(rows.file)
    return np.logical_or.reduce([scale, unplaced, *unusable.values()])


def _judge_scale(rows, texts, problems, choices):
    """(N,) bool, rows whose score is a number of a column on another scale than 0 to 3."""
    score_words = choices.score_words
    what, remedy = columns.other_scale(texts, score_words)
    is_number = partial(columns.is_bare_number, score_words=score_words)
    doubtful = _map_unique(texts, is_number).astype(bool)
    doubtful &= bool(what)
    for file, text, cell in _cells_of(rows, "score", texts, doubtful):
        problems.append(("scale", file, (f"{cell}{text!r}", what, remedy)))
    return doubtful.to_numpy(bool)


def _judge_places(rows, texts, problems):
    """(N,) bool, rows of images that lie or are called where no score can stand."""
    unplaced = texts.isin(NO_PLACE)
    for file, text in zip(rows.file[unplaced], texts[unplaced], strict=True):
        problems.append(("no place", file, NO_PLACE[text]))
    return unplaced.to_numpy(bool)


def _judge_unscored(rows, problems):
    """Tells which rows have no score, or once that none has one."""
    unscored = rows["score"] == columns.NOT_WRITTEN
    if len(rows) > 1 and unscored.all():
        # 10,000 warnings that say the same would hide every other.
        problems.append(("unscored set", rows.file.iloc[0], (f"{len(rows):,}",)))
        return
    for file in rows.file[unscored]:
        problems.append(("unscored", file, ()))


def _score_word_hint(text):
    """str, how a word that may be a score is declared; "" for what holds no word."""
    if scores.is_date(text):
        return ", in cells formatted as text: a spreadsheet made a date of it"
    is_word = text.replace(" ", "").replace("-", "").isalpha()
    if not is_word and not scores.is_two_scores(text):
        return ""
    example = f"{text.lower()}=SCORE"
    if " " in text:
        example = repr(example)
    return f", or say which it means: --score-word {example}"


def _judge_readings(rows, problems, score_words):
    """Turns the readings of every rater into 0 to 3, -1 for not read or not readable."""
    parse_score = partial(columns.parse_written_score, words=score_words)
    for column in columns.rater_columns(rows):
        texts = rows[column]
        readings = _map_unique(texts, parse_score).astype(int)
        what, _ = columns.other_scale(texts, score_words)
        if what:
            is_number = _map_unique(texts, partial(columns.is_bare_number, score_words=score_words))
            readings = readings.mask(is_number.astype(bool), columns.NOT_A_SCORE)
        wrong = readings == columns.NOT_A_SCORE
        for file, text, cell in _cells_of(rows, column, texts, wrong):
            among = f" among {what}," * bool(what)
            problems.append(("rater", file, (f"{cell}{text!r} by {column}{among}",)))
        rows[column] = readings.clip(lower=columns.NOT_WRITTEN)


def _cells_of(rows, column, texts, mask):
    """list of (file, text, "row 5, score: ") of the cells in mask; "" where no table has them."""
    cells = pd.Series("", index=rows.index)
    if "line" in rows:
        cells = "row " + rows["line"].astype(str) + f", {column}: "
    return list(zip(rows.file[mask], texts[mask], cells[mask], strict=True))


def _map_unique(column: pd.Series, meaning: Callable) -> pd.Series:
    """Series of the meaning of every text; each text is looked at once, however often it stands."""
    return column.map({text: meaning(text) for text in set(column)})


def _parse_set(text):
    """str, the set of a written one; "?" for what is no set."""
    if not text:
        return ""
    return columns.set_of_word(text) or "?"


def _parse_mpp(text):
    """float micrometres a pixel, NaN for nothing written, 0 for what is no pixel size."""
    if not text:
        return np.nan
    try:
        mpp = float(text.replace(",", "."))
    except ValueError:
        return 0.0
    smallest, largest = columns.MPP
    if smallest <= mpp <= largest:
        return mpp
    return 0.0


def _has_control_signs(text):
    """bool, whether a name would act on a terminal or is not Unicode."""
    if text.isprintable():
        return False
    return any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text)


# --- judging files ----------------------------------------------------------------------------


def judge_files(rows: pd.DataFrame, problems: list) -> np.ndarray:
    """(N,) bool, rows whose file cannot be used; also tells what is converted or cropped."""
    for row in rows.itertuples():
        if row.fault:
            problems.append((row.fault, row.file, (row.detail,)))
        else:
            problems += [(note, row.file, (row.detail,)) for note in row.notes]
    faulty = rows.fault != ""
    _judge_sizes(rows[~faulty], problems)
    return faulty.to_numpy()


def _judge_sizes(rows, problems):
    """Tells which images are not square, and which differ in size though nothing says why."""
    sizes = rows.side_px.map("{0[0]} x {0[1]} px".format)
    for file, (width, height), size in zip(rows.file, rows.side_px, sizes, strict=True):
        if width != height:
            problems.append(("oblong", file, (size,)))

    # Where mpp is known, another size may be the same tissue at another resolution.
    unknown_mpp = rows.mpp.isna()
    if not unknown_mpp.any():
        return
    usual = sizes[unknown_mpp].mode().iloc[0]
    other = unknown_mpp & (sizes != usual)
    for file, size in zip(rows.file[other], sizes[other], strict=True):
        problems.append(("size", file, (size, usual)))


def judge_fields(rows: pd.DataFrame, problems: list, reasons: Sequence[str]) -> np.ndarray:
    """(N,) bool, rows that show no H-DAB field, by the sentences of field.judge_files.

    Where a slide is of another stain, all of its rows.
    """
    refused_for = np.array(reasons, object)
    slides = rows["slide"].to_numpy(object)
    for slide in set(filter(None, slides)):
        of_slide = slides == slide
        n_fields = int(of_slide.sum())
        n_others = int(np.isin(refused_for[of_slide], OTHER_STAINS).sum())
        if n_fields >= LEAST_FIELDS and n_others >= MOST_OF_SLIDE * n_fields:
            what = f"{n_others:,} of {n_fields:,} fields of slide {slide} show another stain"
            refused_for[of_slide & (refused_for == "")] = what
    for file, reason in zip(rows.file, refused_for, strict=True):
        if reason:
            problems.append(("field", file, (reason,)))
    return np.array([reason != "" for reason in refused_for], bool)


def judge_duplicates(rows: pd.DataFrame, problems: list) -> np.ndarray:
    """(N,) bool, rows whose bytes stand elsewhere: the test set's stays; of two scores none."""
    left_out = np.zeros(len(rows), bool)
    # Copies without a score come after all copies with one.
    unscored_last = (len(DUPLICATE_ORDER) + 1) * (rows.score < 0)
    rank = rows["set"].map(DUPLICATE_ORDER) + unscored_last
    duplicates = rows.assign(rank=rank)[rows.digest.duplicated(keep=False)]
    for _, same in duplicates.groupby("digest", sort=False):
        same = same.sort_values("rank", kind="stable")
        known_scores = sorted(set(same.score[same.score >= 0]))
        if len(known_scores) > 1:
            left_out[same.index] = True
            written = " and ".join(map(scores.score_name, known_scores))
            files = ", ".join(_rows_named(same)[:4])
            for file in same.file:
                problems.append(("conflicting", file, (written, files)))
            continue

        left_out[same.index[1:]] = True
        first = same.iloc[0]
        for row in same[1:].itertuples():
            leaks = row.set != first.set and first.set not in ("", "train")
            if leaks:
                problems.append(("leak", row.file, (first.file, first.set)))
            elif row.path == first.path:
                problems.append(("row repeat", row.file, ()))
            else:
                problems.append(("repeat", row.file, (first.file,)))
    return left_out


def _rows_named(rows):
    """list of str, the file of each row; where one file stands in a table twice, with its row."""
    if "line" not in rows or rows.file.is_unique:
        return rows.file.tolist()
    return (rows.file + " in row " + rows.line.astype(str)).tolist()


def judge_sets(rows: pd.DataFrame, problems: list) -> None:
    """Tells which slides and patients stand on both sides of the sets as given."""
    for kind in ("slide", "patient"):
        used = rows[(rows["set"] != "") & (rows[kind] != "")]
        for identifier, members in used.groupby(kind):
            if members["set"].nunique() > 1:
                sets = " and ".join(sorted(set(members["set"])))
                problems.append(("cut", members.file.iloc[0], (kind, identifier, sets)))


def judge_partners(rows: pd.DataFrame, problems: list, facts: pd.DataFrame) -> None:
    """Tells which HE partners are missing, unusable or of another size; removes unusable ones."""
    if not (rows.he != "").any():
        return
    for i in rows.index:
        fault = facts.fault[i]
        if not rows.he[i]:
            problems.append(("partner", rows.file[i], ("there is none",)))
        elif fault:
            what = PROBLEMS[fault][1].format(facts.detail[i])
            problems.append(("partner", rows.file[i], (what,)))
        elif facts.side_px[i] != rows.side_px[i]:
            problems.append(("partner", rows.file[i], ("it has another size",)))
    rows["he"] = rows.he.where(facts.fault == "", "")


# --- the list of problems ---------------------------------------------------------------------


def problem_table(problems: Sequence[tuple]) -> pd.DataFrame:
    """DataFrame (severity, file, problem, remedy, kind: its code in PROBLEMS), errors first."""
    rows = []
    for code, file, details in problems:
        severity, problem, remedy = PROBLEMS[code]
        sentences = [visible_text(text.format(*details)) for text in (problem, remedy)]
        rows.append((severity, visible_text(file), *sentences, code))
    return pd.DataFrame(sorted(rows), columns=["severity", "file", "problem", "remedy", "kind"])


def problem_lines(problems: pd.DataFrame, *, examples: int = 3) -> list[str]:
    """list of str to print: every kind of problem with its count, first files and remedy."""
    lines = []
    for (severity, kind), rows in problems.groupby(["severity", "kind"]):
        sentences = rows["problem"].unique()
        if len(sentences) == 1:
            lines.append(f"{severity:8} {count_text(len(rows), 'file')}: {sentences[0]}")
            lines += [f"         {file}" for file in rows["file"].head(examples)]
        else:
            lines.append(f"{severity:8} {count_text(len(rows), 'file')} ({kind}):")
            for row in rows.head(examples).itertuples():
                lines.append(f"         {row.file}: {row.problem}")
        if len(rows) > examples:
            lines.append(f"         … and {len(rows) - examples:,} more")
        for remedy in rows["remedy"].unique()[:examples]:
            lines.append(f"         Remedy: {remedy}")
    return lines


def visible_text(text: str) -> str:
    """str, text with the control signs of strangers' names written out, so that none acts."""
    if text.isprintable():
        return text
    return "".join(map(_visible_sign, text))


def _visible_sign(sign):
    """str, a sign, or what it is where it is a control sign: chr(27) becomes backslash x1b."""
    if unicodedata.category(sign)[0] == "C":
        return sign.encode("unicode_escape").decode()
    return sign
