"""Which layout the images of a folder have, and their rows as they are written."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.files import DataError
from her2lib.intake import columns, folder_roles, public_sets
from her2lib.intake.choices import FOLDERS, Choices
from her2lib.intake.folder_roles import Level
from her2lib.intake.layout_sentences import count_text, no_score_sentence
from her2lib.intake.listing import Listing
from her2lib.intake.public_sets import PublicSet


def name_layout(
    path: Path,
    ihc: pd.DataFrame,
    partner_of: Mapping[str, str],
    public_set: PublicSet | None,
    choices: Choices,
    lying: Listing,
) -> tuple[str, Level | None]:
    """(name in choices.LAYOUTS, Level of the score or None) of HER2 images.

    ihc: as folder_roles.read_tree.  partner_of: file -> its H&E partner.
    Raises DataError where no score stands anywhere and nothing says that none should.
    """
    unscored = "images"
    if partner_of:
        unscored = "pairs"
    by_name = "names"
    has_ihc = any("ihc" in map(str.lower, folders) for folders in ihc["folders"])
    if has_ihc:
        by_name = "bci"
    if choices.layout in ("images", "pairs") or choices.score_from == "none":
        return unscored, None
    if choices.score_from in FOLDERS:
        return "folders", folder_roles.stated_level(ihc, choices.score_from, choices.score_words)
    if choices.score_from == "name" or choices.layout in ("names", "bci"):
        return by_name, None

    level = folder_roles.score_level(ihc, choices, str(path))
    if level:
        return "folders", level
    n_named = int((ihc["score_of_name"] != "").sum())
    enough = n_named and (has_ihc or n_named >= len(ihc) / 2)
    if enough and choices.layout != "folders":
        return by_name, None
    is_known = public_set and public_set.labels == public_sets.NO_SCORES
    if choices.layout != "folders" and (is_known or (partner_of and has_ihc and not n_named)):
        return unscored, None
    raise DataError(no_score_sentence(path, ihc, public_set, lying))


def rows_of(
    root: Path,
    ihc: pd.DataFrame,
    partner_of: Mapping[str, str],
    name: str,
    level: Level | None,
    public_set: PublicSet | None,
    choices: Choices,
) -> tuple[pd.DataFrame, list[str]]:
    """(raw table of HER2 images, sentences on where slides and patients were taken from)."""
    slides, patients, origin = folder_roles.slides_and_patients(ihc, level, choices)
    rows = []
    texts = _score_texts(ihc, name, level)
    sets = _set_texts(ihc, name, choices)
    for i, file in enumerate(ihc["file"]):
        he = ""
        if file in partner_of:
            he = str(root / partner_of[file])
        rows.append(
            {
                "file": file,
                "path": str(root / file),
                "score": texts[i],
                "set": sets[i],
                "slide": slides[i],
                "patient": patients[i],
                "he": he,
            }
        )
    sentences = [sentence for sentence in [origin] if sentence]
    sentences += folder_roles.fold_sentences(ihc)
    if public_set and not any(slides) and not any(patients):
        facts = [
            public_sets.facts_of_name(public_set, f"{root.resolve().name}/{file}")
            for file in ihc["file"]
        ]
        rows = [row | fact for row, fact in zip(rows, facts, strict=True)]
        if any(facts):
            codes = {fact.get("slide", "") for fact in facts} - {""}
            count = count_text(len(codes), "slide or patient", "slides or patients")
            sentences.append(f"{count} taken from the names.")
    return columns.as_raw_table(pd.DataFrame(rows, dtype=object)), sentences


def two_scores(
    ihc: pd.DataFrame, name: str, level: Level | None, choices: Choices
) -> tuple[np.ndarray, list[tuple]]:
    """((N,) bool, problems): files whose folder and name hold different scores, neither chosen."""
    undecided = np.zeros(len(ihc), bool)
    problems: list[tuple] = []
    if level is None or name != "folders" or choices.score_from:
        return undecided, problems
    texts = folder_roles.level_texts(ihc, level)
    by_folder = np.array(columns.parse_written_scores(texts, choices.score_words))
    by_name = np.array(columns.parse_written_scores(ihc["score_of_name"]))
    undecided = (by_folder >= 0) & (by_name >= 0) & (by_folder != by_name)
    for i in np.flatnonzero(undecided).tolist():
        details = (texts[i], ihc["score_of_name"].iloc[i], folder_roles.level_name(ihc, level, i))
        problems.append(("two scores", ihc["file"].iloc[i], details))
    return undecided, problems


def crossed_sets(ihc: pd.DataFrame, choices: Choices) -> tuple[np.ndarray, list[tuple]]:
    """((N,) bool, problems): files whose name says another set than their folder."""
    differ = (ihc["set"] != ihc["set_of_name"]) & (ihc["set"] != "") & (ihc["set_of_name"] != "")
    if choices.set_from:
        differ = differ & False
    rows = ihc[differ]
    problems = [("set name", row.file, (row.set_of_name, row.set)) for row in rows.itertuples()]
    return differ.to_numpy(bool), problems


# --- helpers --------------------------------------------------------------------------------------


def _score_texts(ihc, name, level):
    """list of str (N,), what is written where the score stands."""
    if name == "folders":
        texts = folder_roles.level_texts(ihc, level)
        return [text or columns.NO_SCORE_FOLDER for text in texts]
    if name == "bci":
        scores = [folder_roles.bci_score(folder_roles.stem_of(file)) for file in ihc["file"]]
        return [score or columns.NO_SCORE_IN_NAME for score in scores]
    if name == "names":
        return [text or columns.NO_SCORE_IN_NAME for text in ihc["score_of_name"]]
    return [""] * len(ihc)


def _set_texts(ihc, name, choices):
    """list of str (N,), the set of every file by its folders, or by its name."""
    if choices.set_from == "none":
        return [""] * len(ihc)
    if choices.set_from == "name":
        if not any(ihc["set_of_name"]):
            raise DataError("--set-from name: no name holds train, val or test: leave it out.")
        return ihc["set_of_name"].tolist()
    by_folder = ihc["set"]
    if choices.set_from == "folder" and not any(by_folder):
        raise DataError("--set-from folder: no folder is named train, val or test: leave it out.")
    # A word such as test in a few names is no set; BCI writes one into every name.
    every_name = (ihc["set_of_name"] != "").all() and not (by_folder != "").any()
    if choices.set_from == "" and (name == "bci" or every_name):
        return by_folder.where(by_folder != "", ihc["set_of_name"]).tolist()
    return by_folder.tolist()
