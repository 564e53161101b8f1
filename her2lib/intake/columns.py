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
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# Micrometres a pixel, from oil immersion to a loupe; beyond, the unit is wrong (nm, mm).
MPP = (0.05, 10.0)

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
