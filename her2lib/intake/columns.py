"""What is written about a patch: the columns of its row, the words for sets, sizes and scores.

Readers of folders and of manifests both stand on it, so that one word means one thing in both.
"""

import os
import re
from collections.abc import Iterable, Mapping

import pandas as pd

from her2lib import scores

# A patch after it was judged (a row of read_table), and before, all in text as it was written.
COLUMNS = ("name", "path", "score", "slide", "patient", "mpp", "set", "he")
RAW_COLUMNS = ("file", "path", "score", "slide", "patient", "mpp", "set", "he")
# Besides path and score, a manifest may have these columns and one rater_* for each reader.
OPTIONAL_COLUMNS = ("slide", "patient", "mpp", "set", "he")

# Words for a set, in lower case; what stands around them ("train_set") is left to set_of_word.
SETS = {
    "": "",
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "test": "test",
    "testing": "test",
    "external": "external",
}
_SET_WORDS = "|".join(sorted(filter(None, SETS), key=len, reverse=True))
# MIST and other sets for pixel translation write trainA (H&E) and trainB (IHC).
_SET = re.compile(
    rf"(?:(?:set|data|images|patches)[ _-])?({_SET_WORDS})"
    r"(?:[ _-]?(?:set|data|images|patches|split|fold)|[ _-]?[ab])?"
)
# How many times larger than scanned a patch is that `her2 tile` cut; empty where it is not.
ENLARGED = "enlarged"
# What the kit itself writes into a manifest: `her2 tile` measures, `her2 consensus` keeps.
OF_THE_KIT = ("x", "y", "tissue", "dab", "sharpness", ENLARGED, "score_given")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# Micrometres a pixel, from oil immersion to a loupe; beyond, the unit is wrong (nm, mm).
MPP = (0.05, 10.0)

# What to say where the four scores are classes 1 to 4.
COUNTED_FROM_ONE = "--score-word 1=0 --score-word 2=1+ --score-word 3=2+ --score-word 4=3+"
# So many different numbers beyond 3 are another scale, fewer are slips.
MANY_NUMBERS = 3
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")

# Written for the score of an image where the layout has no place for one.
NO_SCORE_FOLDER = "(no score folder)"
NO_SCORE_IN_NAME = "(no score in the name)"
NOT_WRITTEN = -1
NOT_A_SCORE = -2
NO_WORDS: Mapping[str, str] = {}


def parse_written_score(text: str, words: Mapping[str, str] = NO_WORDS) -> int:
    """int 0..3, NOT_WRITTEN (-1) for an empty text or n/a, NOT_A_SCORE (-2) for what is no score.

    words: what a study declares besides, {"negative": "0"}.
    """
    if scores.is_missing(text):
        return NOT_WRITTEN
    try:
        return scores.parse_score(text, words)
    except ValueError:
        return NOT_A_SCORE


def parse_written_scores(texts: Iterable[str], words: Mapping[str, str] = NO_WORDS) -> list[int]:
    """list of parse_written_score of many texts; each text is looked at once."""
    texts = list(texts)
    score_of = {text: parse_written_score(text, words) for text in set(texts)}
    return [score_of[text] for text in texts]


def other_scale(texts: Iterable[str], score_words: Mapping[str, str] = NO_WORDS) -> tuple[str, str]:
    """(what is wrong, remedy) where numbers of a column are no scores 0 to 3; ("", "") elsewhere.

    Classes counted from 1 are wrong by one step throughout, and the first percents are 0, 1, 2
    and 3: of such a column no number is read, unless score_words declare what each stands for.

    Example: other_scale(["1", "2", "3", "4"])[0] begins "numbers from 1 to 4"
    """
    texts = list(texts)
    numbers = [float(text.replace(",", ".")) for text in texts if is_bare_number(text, score_words)]
    beyond = [number for number in numbers if number not in (0, 1, 2, 3)]
    if set(beyond) == {4} != set(numbers) and 0 not in parse_written_scores(texts, score_words):
        remedy = f"say what they mean: {COUNTED_FROM_ONE}"
        return "numbers from 1 to 4, of which 1 may be the score 0", remedy
    # A slip of the keyboard is one number or two; a percentage or an H-score has many.
    if len(set(beyond)) >= MANY_NUMBERS and len(beyond) >= len(numbers) / 20:
        what = f"numbers from {min(numbers):g} to {max(numbers):g}, another scale than 0 to 3"
        return what, "name the column of the scores 0, 1+, 2+, 3+ 'score'"
    return "", ""


def is_bare_number(text: str, score_words: Mapping[str, str] = NO_WORDS) -> bool:
    """bool, whether a text is a number without a plus sign that score_words does not declare."""
    return bool(_NUMBER.fullmatch(text)) and text not in score_words


def set_of_word(text: str) -> str:
    """str, train, val, test or external of "train_set", "Training", "valA"; "" for no set.

    Example: set_of_word("Test set") is "test".
    """
    match = _SET.fullmatch(text.strip().lower())
    if not match:
        return ""
    return SETS[match.group(1)]


def patch_names(files: pd.Series) -> pd.Series:
    """Series of str, the names of patches: their files without folders, where no two are equal.

    Example: patch_names(pd.Series(["a/x.png", "b/x.png", "y.png"])) keeps the folders of x.png.
    """
    name = files.map(os.path.basename)
    return name.where(~name.duplicated(keep=False), files)


def rater_columns(frame: pd.DataFrame) -> list[str]:
    """list of the columns that hold the readings of one rater each."""
    return [column for column in frame if column.startswith("rater_")]


def as_raw_table(rows: pd.DataFrame) -> pd.DataFrame:
    """DataFrame with RAW_COLUMNS and rater_*, "" where nothing is written."""
    columns = [*RAW_COLUMNS, *rater_columns(rows)]
    return rows.reindex(columns=columns, fill_value="").fillna("")
