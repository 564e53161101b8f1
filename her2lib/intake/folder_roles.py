"""What the folders and names of images say: which level holds stain, set, score, slide, patient.

A folder's meaning is found by evidence over all files, and refused where two readings fit. Levels
are counted from the file: folder1 is the folder it lies in, folder2 the one above.
"""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from her2lib.files import DataError
from her2lib.intake.choices import FOLDERS, Choices
from her2lib.intake.columns import (
    NOT_WRITTEN,
    parse_written_score,
    parse_written_scores,
    set_of_word,
)
from her2lib.intake.layout_sentences import count_text

# Folders that name a stain. A name under "other" is another marker's, which is left aside.
STAINS = {
    "ihc": "her2",
    "her2": "her2",
    "he": "he",
    "h&e": "he",
    "h_e": "he",
    "h-e": "he",
    "er": "other",
    "pr": "other",
    "pgr": "other",
    "ki67": "other",
    "ki-67": "other",
}
# Sets for the translation of pictures: A is what they start from (H&E), B what they make (HER2).
PAIRED_SET = re.compile(r"(?:train|val|test)([AB])")
STAIN_OF_SIDE = {"A": "he", "B": "her2"}

# Of a cross-validation: neither a set, nor a patient above the score.
FOLD = re.compile(r"(?:cv[ _-]?)?(?:fold|split)[ _-]?\d+", re.IGNORECASE)

# "2+" or "2plus" between signs that end a word, as in her2-2+-score_train_9 or 00012_train_2+;
# a number without a plus only beside the word score or class, or last behind a set.
PLUS_IN_NAME = re.compile(r"(?<![0-9A-Za-z+])([0-3]) ?(?:\+|plus)(?![0-9A-Za-z+])", re.IGNORECASE)
SCORE_IN_NAME = re.compile(
    r"(?<![0-9A-Za-z])(?:score|class)[ _=-]?([0-3])(?![0-9.])"
    r"|(?<![0-9A-Za-z])([0-3])[ _-]score(?![A-Za-z])"
    r"|(?<![A-Za-z])(?:train|val|test|external)_([0-3])$",
    re.IGNORECASE,
)
SET_IN_NAME = re.compile(r"(?<![A-Za-z0-9])(train|val|test)(?![A-Za-z0-9])", re.IGNORECASE)
# What BCI writes behind the last underline is its score, also where it is none ("4+").
BCI_NAME = re.compile(r"(?:_(?:train|val|test))?_([^_]*)$")


@dataclass(frozen=True)
class Level:
    """A level of folders that may hold the score: where it stands in every path."""

    position: list[int]  # index into the folders of a file, -1 where it has no such level
    names: frozenset[str]
    readable: frozenset[str]  # those of names that are scores
    declared: frozenset[str] = frozenset()  # those of them that the user declares as scores
    has_zero: bool = False  # whether one of them is the score 0

    @property
    def is_marked(self) -> bool:
        """bool, whether a name says that it is a score: "2+", "class_2", not a number alone.

        A number does where the user declares it: --score-word 1=0.
        """
        return any(not name.strip().isdigit() for name in self.readable) or bool(self.declared)


def read_tree(files: Sequence[str]) -> pd.DataFrame:
    """DataFrame (file, folders, free, stain, set, set_of_name, score_of_name) of paths.

    folders: tuple of the folders of a file, outermost first; free: the same, "" where a folder
    names a stain or a set.  Texts as they are written, "" where nothing is.
    """
    stems = [stem_of(file) for file in files]
    tree = pd.DataFrame({"file": list(files)})
    tree["folders"] = [tuple(file.split("/")[:-1]) for file in files]
    names: set[str] = set().union(*tree["folders"])
    stains = _stains(names)
    sets = {name: set_of_word(name) for name in names}
    tree["stain"] = [_stain_of(folders, stains) for folders in tree["folders"]]
    tree["set"] = [_sets_of(folders, sets) for folders in tree["folders"]]
    tree["free"] = [_free_of(folders, stains, sets) for folders in tree["folders"]]
    tree["set_of_name"] = [set_of_name(stem) for stem in stems]
    tree["score_of_name"] = [score_of_name(stem) for stem in stems]
    return tree


def stem_of(file: str) -> str:
    """str, the name of a path without its folders and its ending.

    Example: stem_of("2+/a.b.png") is "a.b".
    """
    return os.path.splitext(file.rpartition("/")[2])[0]


def score_of_name(stem: str) -> str:
    """str, the score that a file's name holds, as "2+" or "2"; "" for none, or for several.

    Example: score_of_name("her2-2+-score_train_9") is "2+".
    """
    scores = {f"{digit}+" for digit in PLUS_IN_NAME.findall(stem)}
    if not scores:
        groups = SCORE_IN_NAME.findall(stem)
        scores = {"".join(group) for group in groups}
    if len(scores) != 1:
        return ""
    return scores.pop()


def fold_sentences(tree: pd.DataFrame) -> list[str]:
    """list of a sentence on folders that name a fold, which are read as nothing; empty without."""
    names: set[str] = set().union(*tree["folders"])
    folds = sorted(name for name in names if FOLD.fullmatch(name.strip()))
    if not folds:
        return []
    shown = ", ".join(folds[:5])
    return [
        f"The folders {shown} are folds: read neither as sets nor as patients. A study draws its "
        "own sets, unless a table gives them."
    ]


def set_of_name(stem: str) -> str:
    """str, train, val or test as a word of a file's name; "" for none, or for several."""
    sets = {text.lower() for text in SET_IN_NAME.findall(stem)}
    if len(sets) != 1:
        return ""
    return sets.pop()


def bci_score(stem: str) -> str:
    """str, what stands for the score in a name of BCI, also where it is none; "" for nothing."""
    score = score_of_name(stem)
    match = BCI_NAME.search(stem)
    if score or not match:
        return score
    return match.group(1)


# --- the level of the score -----------------------------------------------------------------------


def stated_level(tree: pd.DataFrame, folder: str, words: Mapping[str, str]) -> Level:
    """Level that the user names: folder1, folder2 … DataError where no file has such a folder."""
    number = FOLDERS.index(folder) + 1
    position = [max(len(folders) - number, -1) for folders in tree["folders"]]
    if max(position) < 0:
        raise DataError(_no_folder_sentence("score-from", folder))
    return _level(tree["folders"], position, words)


def score_level(tree: pd.DataFrame, choices: Choices, where: str) -> Level | None:
    """Level whose folders are named by score; None where there is none.

    where: the path, for the sentence.  Raises DataError, with both readings, where two levels
    could be it, or where bare numbers could as well be patients.
    """
    by_alignment = [
        _score_candidates(tree, _from_file(tree), choices.score_words),
        _score_candidates(tree, _from_root(tree), choices.score_words),
    ]
    # Folders of unequal depth line up from the top (2+/a.png, 2+/slide7/b.png) or from the file
    # (siteA/2+/a.png, siteB/batch1/2+/b.png): whichever makes more files readable.
    candidates = max(
        by_alignment, key=lambda levels: max([_coverage(tree, x) for x in levels] + [0])
    )
    if not candidates:
        return None
    marked = [level for level in candidates if level.is_marked]
    candidates = marked or candidates
    inner = max(candidates, key=lambda level: max(level.position))
    for level in candidates:
        _refuse_two_levels(tree, inner, level, choices, where)
    if not marked and not inner.has_zero:
        _refuse_bare_numbers(tree, inner, where)
    return inner


def _score_candidates(tree, positions, words):
    """list of Level that may hold the score."""
    levels = [_level(tree["free"], position, words) for position in positions]
    return [level for level in levels if _may_be_scores(level)]


def _from_file(tree):
    """list of positions (N,), one a level counted from the file."""
    lengths = [len(folders) for folders in tree["folders"]]
    deepest = max(lengths, default=0)
    levels = []
    for number in range(1, deepest + 1):
        levels.append([max(length - number, -1) for length in lengths])
    return levels


def _from_root(tree):
    """list of positions (N,), one a level counted from the top, stains and sets left out."""
    free_positions = [np.flatnonzero(folders).tolist() for folders in tree["free"]]
    deepest = max(map(len, free_positions), default=0)
    levels = []
    for depth in range(deepest):
        levels.append([_nth(positions, depth) for positions in free_positions])
    return levels


def _nth(positions, depth):
    if depth < len(positions):
        return positions[depth]
    return -1


def _level(folders_of_files, position, words):
    names = set()
    for folders, i in zip(folders_of_files, position, strict=True):
        if i >= 0 and folders[i]:
            names.add(folders[i])
    score_of = {name: parse_written_score(name, words) for name in names}
    readable = {name for name in names if score_of[name] > NOT_WRITTEN}
    words_in_lower_case = {word.strip().casefold() for word in words}
    return Level(
        position=list(position),
        names=frozenset(names),
        readable=frozenset(readable),
        declared=frozenset(x for x in readable if x.strip().casefold() in words_in_lower_case),
        has_zero=0 in score_of.values(),
    )


def _may_be_scores(level):
    """bool, whether the names of a level may be scores: 1, 2, 3 and 10 are none, but patients."""
    if not level.readable:
        return False
    if level.is_marked:
        return True
    others = level.names - level.readable
    numbered = any(re.search(r"\d", name) for name in others)
    return not numbered and (level.has_zero or not others)


def _coverage(tree, level):
    """int, files whose folder at a level is a score."""
    texts = level_texts(tree, level)
    return sum(text in level.readable for text in texts)


def level_texts(tree: pd.DataFrame, level: Level) -> list[str]:
    """list of str, the folder of every file at a level; "" where there is none."""
    texts = []
    for folders, i in zip(tree["folders"], level.position, strict=True):
        if i >= 0:
            texts.append(folders[i])
        else:
            texts.append("")
    return texts


def level_name(tree: pd.DataFrame, level: Level, row: int = 0) -> str:
    """str, folder1 or folder2 …, where a level stands in the path of one file."""
    return f"folder{len(tree['folders'].iloc[row]) - level.position[row]}"


def _refuse_two_levels(tree, inner, level, choices, where):
    """Raises DataError where two levels read scores that differ for some file."""
    by_inner, by_other = level_texts(tree, inner), level_texts(tree, level)
    inner_scores = parse_written_scores(by_inner, choices.score_words)
    other_scores = parse_written_scores(by_other, choices.score_words)
    for row, scores in enumerate(zip(inner_scores, other_scores, strict=True)):
        if min(scores) >= 0 and scores[0] != scores[1]:
            one, other = level_name(tree, inner, row), level_name(tree, level, row)
            raise DataError(
                f"{where} can be read in two ways: {tree['file'].iloc[row]} has the score "
                f"{by_inner[row]!r} by the folder {one} and {by_other[row]!r} by {other}. "
                f"Say which counts: --score-from {one} or --score-from {other}."
            )


def _refuse_bare_numbers(tree, level, where):
    """Raises DataError for folders 1, 2, 3 alone, which may be scores or patients."""
    texts = level_texts(tree, level)
    row = next(row for row, text in enumerate(texts) if text in level.readable)
    number, name = texts[row], level_name(tree, level, row)
    raise DataError(
        f"{where} can be read in two ways: in {tree['file'].iloc[row]} the folder {number!r} may "
        f"be the score {number}+, or a patient or slide of that number. Say which: --score-from "
        f"{name}, or --score-from none with --patient-from {name}."
    )


# --- slides and patients --------------------------------------------------------------------------


def slides_and_patients(
    tree: pd.DataFrame, level: Level | None, choices: Choices
) -> tuple[list[str], list[str], str]:
    """(slides, patients, sentence) of every file, from folders whose names vary; "" unknown.

    Below a score stands the slide, above it the patient; of two folders without a score between
    them the outer one is the patient. The outer one is the safer: no split cuts through it.
    """
    outer, inner = _free_folders(tree, level)
    if level:
        outer = _without_second_scores(tree, level, outer, choices.score_words)
        inner = _without_second_scores(tree, level, inner, choices.score_words)
    if choices.patient_from:
        patients = _stated_patients(tree, choices.patient_from)
    elif level and outer:
        patients = outer.pop(0)
    elif len(outer) + len(inner) > 1:
        patients = (outer or inner).pop(0)
    else:
        patients = [""] * len(tree)
    if choices.patient_from in FOLDERS:
        outer = [texts for texts in outer if texts != patients]
        inner = [texts for texts in inner if texts != patients]
    # A Mac and a Linux machine write one umlaut in two ways: still one patient.
    patients = [unicodedata.normalize("NFC", patient) for patient in patients]
    slides = _join_levels([*outer, *inner], len(tree))
    slides = [unicodedata.normalize("NFC", slide) for slide in slides]
    slides = _told_apart(slides, patients)
    sentence = _origin_sentence(slides, patients, level, choices)
    return slides, patients, sentence


def _free_folders(tree, level):
    """(outer, inner): lists of the texts (N,) of every varying level above and below the score."""
    above = []
    below = []
    positions = [-1] * len(tree)
    if level:
        positions = level.position
    for folders, position in zip(tree["free"], positions, strict=True):
        at = position
        if at < 0:
            at = len(folders)
        # Counted from the score outwards and inwards; without one, from the file outwards.
        above.append([folder for folder in reversed(folders[:at]) if folder])
        below.append([folder for folder in folders[at + 1 :] if folder])
    return _varying(above)[::-1], _varying(below)


def _without_second_scores(tree, level, levels, words):
    """list of levels without those that write every score a second time (class_2+/2/a.png)."""
    scores = parse_written_scores(level_texts(tree, level), words)
    others = []
    for texts in levels:
        if scores != parse_written_scores(texts, words):
            others.append(texts)
    return others


def _varying(folders_of_files):
    """list of lists of str (N,): the levels at which more than one name stands."""
    deepest = max(map(len, folders_of_files), default=0)
    levels = []
    for depth in range(deepest):
        texts = [(folders[depth : depth + 1] or [""])[0] for folders in folders_of_files]
        if len(set(texts) - {""}) > 1:
            levels.append(texts)
    return levels


def _stated_patients(tree, patient_from):
    """list of str (N,), the patients where the user says that they stand."""
    if patient_from == "none":
        return [""] * len(tree)
    if patient_from == "name":
        return [stem_of(file).partition("_")[0] for file in tree["file"]]
    number = FOLDERS.index(patient_from) + 1
    patients = [
        (folders[-number:][:1] or ("",))[0] * (len(folders) >= number)
        for folders in tree["folders"]
    ]
    if not any(patients):
        raise DataError(_no_folder_sentence("patient-from", patient_from))
    return patients


def _no_folder_sentence(flag, folder):
    return (
        f"--{flag} {folder}: no image lies in so many folders. Of the folders named by the path, "
        f"folder1 is the one that an image lies in, folder2 the one above: correct it."
    )


def _join_levels(levels, count):
    """list of str (N,), the texts of several levels joined by a slash."""
    if not levels:
        return [""] * count
    rows = zip(*levels, strict=True)
    return ["/".join(filter(None, texts)) for texts in rows]


def _told_apart(slides, patients):
    """list of str (N,): slides of one name with several patients get the patient in front."""
    pairs = pd.DataFrame({"slide": slides, "patient": patients}).drop_duplicates()
    shared = set(pairs["slide"][pairs["slide"].duplicated(keep=False)]) - {""}
    names = []
    for slide, patient in zip(slides, patients, strict=True):
        if slide in shared and patient:
            slide = f"{patient}/{slide}"
        names.append(slide)
    return names


def _origin_sentence(slides, patients, level, choices):
    """str, from which folders slides and patients were taken; "" where from none."""
    n_slides = len(set(slides) - {""})
    n_patients = len(set(patients) - {""})
    above = below = "folders"
    if level:
        above = "folders above the score"
        below = "folders below the score"
    if any("/" in slide for slide in slides):
        below = "the other folders"
    if choices.patient_from:
        above = f"{choices.patient_from}, as stated"
        below = "the other folders"
    counts = []
    if n_patients:
        counts.append(f"{count_text(n_patients, 'patient')} ({above})")
    if n_slides:
        counts.append(f"{count_text(n_slides, 'slide')} ({below})")
    if not counts:
        return ""
    return f"Taken from the paths: {' and '.join(counts)}; --patient-from chooses."


# --- one folder -----------------------------------------------------------------------------------


def _stains(names):
    """dict folder -> her2, he, other or "": what its name says of the stain."""
    stains = {name: STAINS.get(name.strip().lower(), "") for name in names}
    sides = {match.group(1) for match in map(PAIRED_SET.fullmatch, names) if match}
    # valA alone is a set of that name; with valB beside it, one of two stains.
    if sides == {"A", "B"}:
        for name in names:
            match = PAIRED_SET.fullmatch(name)
            if match:
                stains[name] = STAIN_OF_SIDE[match.group(1)]
    return stains


def _stain_of(folders, stains):
    """str, what the innermost folder says of the stain; another marker's folder says it for all."""
    named = [stains[folder] for folder in folders if stains[folder]]
    # ER/TrainValAB/trainB holds oestrogen receptors, whatever B means below HER2.
    if "other" in named:
        return "other"
    return "".join(named[-1:])


def _sets_of(folders, sets):
    """str, the set of the folders of a file; "train and test" where they name two."""
    named = dict.fromkeys(sets[folder] for folder in folders if sets[folder])
    return " and ".join(named)


def _free_of(folders, stains, sets):
    """tuple of str, the folders of a file, "" for those that name a stain, a set or a fold."""
    free = []
    for folder in folders:
        if stains[folder] or sets[folder] or FOLD.fullmatch(folder.strip()):
            free.append("")
        else:
            free.append(folder)
    return tuple(free)
