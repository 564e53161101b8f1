"""What is said of a layout: as what it was read, what contradicts itself, what was left aside."""

import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.intake import columns, public_sets
from her2lib.intake.choices import Choices
from her2lib.intake.columns import SUFFIXES
from her2lib.intake.listing import Listing
from her2lib.intake.public_sets import PublicSet

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx")
# Endings that no photograph has; a .tif may be either.
SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi")

# name in choices.LAYOUTS: how it is called in a sentence.
TITLES = {
    "manifest": "a table of patches",
    "bci": "a BCI folder (scores in the names below IHC)",
    "folders": "folders named by score",
    "names": "images with the score in their names",
    "pairs": "pairs of HER2 and H&E images without scores",
    "images": "images without scores",
}
EXPECTED = (
    "expected a manifest.csv (path,score), BCI's IHC/train and IHC/test, folders named 0, 1+, 2+, "
    "3+, or names such as a_2+.png"
)


# So many folders may be scores in words: null, ultralow, low, equivocal, positive, unknown.
MOST_SCORE_WORDS = 6


def count_text(count: int, noun: str, plural: str = "") -> str:
    """str, "1 file" or "1,200 files"."""
    if count != 1:
        noun = plural or f"{noun}s"
    return f"{count:,} {noun}"


def example_of(rows: pd.DataFrame, choices: Choices) -> dict[str, str]:
    """dict path, score, set, slide, patient of the first row whose score can be read."""
    if rows.empty:
        return {}
    parse = columns.parse_written_score
    row = rows.iloc[0]
    for text, candidate in zip(rows["score"], rows.index, strict=True):
        if parse(text, choices.score_words) >= 0:
            row = rows.loc[candidate]
            break
    score = parse(row["score"], choices.score_words)
    written = row["score"]
    if score >= 0:
        written = scores.score_name(score)
    facts = {column: row[column] for column in ("set", "slide", "patient")}
    return {"path": row["file"], "score": written, **facts}


def read_as(name: str, example: dict[str, str], *, detail: str) -> str:
    """str, the layout by name and what was read from one path."""
    facts = []
    for column in ("score", "set", "slide", "patient"):
        facts.append(f"{column} {example.get(column) or 'none'}")
    path = example.get("path", "none")
    return f"Read as {TITLES[name]}{detail}. For example {path}: {', '.join(facts)}."


def nothing_sentence(path: Path, lying: Listing) -> str:
    """str, that no image lies in a folder, and what lies there instead."""
    slides = [file for file in lying.files if file.lower().endswith(SLIDE_SUFFIXES)]
    if slides:
        return (
            f"{path} holds {count_text(len(slides), 'slide')} ({slides[0]} …) and no patches: "
            f"cut them first: her2 tile {shlex.quote(str(path))} --out FOLDER."
        )
    aside = " ".join(lying.sentences())
    return f"{path} holds no patches: {EXPECTED}. {aside}".rstrip()


def no_score_sentence(
    path: Path, ihc: pd.DataFrame, public_set: PublicSet | None, lying: Listing
) -> str:
    """str, that images have no scores where scores could stand, and what the user can do."""
    images = count_text(len(ihc), "image")
    parts = [f"{path} holds no patches with a score: {EXPECTED}; {images} there."]
    parts += _folders_hint(ihc)
    n_named = int((ihc["score_of_name"] != "").sum())
    if n_named:
        named = ihc["file"][ihc["score_of_name"] != ""].iloc[0]
        parts.append(f"{n_named:,} names may hold a score ({named}): --score-from name.")
    tables = [file for file in lying.files if file.lower().endswith(TABLE_SUFFIXES)]
    tables = [file for file in tables if "readme" not in file.lower()]
    if tables:
        names = " or ".join(tables[:3])
        parts.append(f"If {names} holds the scores, name that table instead of the folder.")
    parts.append("--layout images reads them without scores.")
    if public_set:
        parts.append(public_sets.sentence_of(public_set))
    return " ".join(parts)


def score_word_sentences(texts: pd.Series, score_words: Mapping[str, str]) -> list[str]:
    """list of a sentence on what each declared word was read as, and how often; empty for none.

    texts (N,): the scores as written.
    """
    parts = []
    for score_word, score in score_words.items():
        n = int(texts.map({text: _is_word(text, score_word) for text in set(texts)}).sum())
        written = scores.score_name(scores.parse_score(score))
        parts.append(f"{score_word!r} as {written} ({count_text(n, 'patch', 'patches')})")
    if not parts:
        return []
    return [f"Read as stated: {', '.join(parts)}."]


def crossing_sentences(crossed: np.ndarray, undecided: np.ndarray) -> list[str]:
    """list of str: how many names contradict their folders, by set and by score."""
    count = f"{len(crossed):,}"
    sentences = []
    if crossed.any():
        sentences.append(
            f"{int(crossed.sum()):,} of {count} names say another set than their folder: the "
            f"folders count, and may be no split at all; --set-from name takes the names."
        )
    if undecided.any():
        sentences.append(
            f"{int(undecided.sum()):,} of {count} names say another score than their folder: "
            f"these are refused until --score-from says which counts."
        )
    return sentences


def aside_sentences(lying: Listing, read: Collection[str]) -> list[str]:
    """list of str, one a kind: which files were not read, besides those that programs left."""
    kinds: Counter = Counter()
    first: dict[str, str] = {}
    for file in lying.files:
        if file not in read:
            kind = _kind_by_ending(file)
            kinds[kind] += 1
            first.setdefault(kind, file)
    sentences = []
    for kind, n in kinds.items():
        sentences.append(f"Not read: {count_text(n, *kind)} ({_first_of_many(first[kind], n)}).")
    return sentences


# --- helpers --------------------------------------------------------------------------------------


def _is_word(text, score_word):
    """bool, whether a text is read as what a word is declared to be."""
    parse = columns.parse_written_score
    return parse(text, {score_word: "0"}) != parse(text, {score_word: "3+"})


def _folders_hint(ihc):
    """list of a sentence on folders that may be scores, and the flag that says so; or empty."""
    innermost = sorted({folders[-1] for folders in ihc["folders"] if folders})
    names = ", ".join(innermost[:6])
    if set(innermost) == {"1", "2", "3", "4"}:
        return [f"If the folders {names} are classes counted from 1: {columns.COUNTED_FROM_ONE}."]
    if any(columns.parse_written_score(folder) >= 0 for folder in innermost):
        return [f"The folders {names} are no scores, as not all are: --score-from folder1."]
    # Patients or slides are many, the words for four scores few.
    folders = sorted(set().union(*ihc["free"]) - {""})
    if not 2 <= len(folders) <= MOST_SCORE_WORDS:
        return []
    shown = ", ".join(folders)
    example = shlex.quote(f"{folders[0].lower()}=SCORE")
    return [f"If the folders {shown} are scores, say which each means: --score-word {example}."]


def _kind_by_ending(file):
    """(one, several) words for what a file is by its ending."""
    lower = file.lower()
    if lower.endswith(SUFFIXES):
        return "other image", "other images"
    if lower.endswith(SLIDE_SUFFIXES):
        return "slide, which her2 tile cuts", "slides, which her2 tile cuts"
    return "file that is no image", "files that are no images"


def _first_of_many(file, count):
    if count == 1:
        return file
    return f"{file} …"
