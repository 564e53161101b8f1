"""What lies at a path that is to be scored: rows of patches, slides, and what is neither.

Folders are read by their layout where they have one, for scores, slides and patients; otherwise
every image is a patch of which nothing else is known.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.files import DataError
from her2lib.intake import (
    columns,
    folder_roles,
    layout_sentences,
    layouts,
    listing,
    manifests,
)
from her2lib.intake.choices import Choices
from her2lib.intake.public_sets import SETS, sentence_of
from her2lib.slides import slide_files

# What `her2 tile` knows of a patch besides, in its manifest.
MEASURED = ["x", "y", "dab"]
# Why a file is left aside, beside slide_files.REASONS.
NO_IMAGE = "no image, slide or manifest by its name"
NOT_LISTED = "not listed in {}, which names the patches of its folder"
RESULTS = listing.REASONS["results"]
MANIFEST_BELOW = "a manifest of a folder below: name that folder, and it is read by it"
OTHER_STAIN = "an image beside those of HER2, of H&E or another stain"


@dataclass(frozen=True)
class Lying:
    """What lies at one path; rows, slides and aside together are all of it."""

    rows: pd.DataFrame  # columns.RAW_COLUMNS as written, x, y, dab, and inside: bool, may be read
    slides: list[Path] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)  # (path, why)
    notes: list[str] = field(default_factory=list)
    slide_problems: list[str] = field(default_factory=list)


def what_lies_at(path: Path, choices: Choices, *, results: Path | None = None) -> Lying:
    """Lying of an image, a slide, a manifest, or a folder of any of these.

    results: the folder where scores go; in a folder that holds it, it is left aside.
    Raises DataError where nothing lies there, or a folder or table cannot be read.

    Example: what_lies_at(Path("new"), FIND_OUT).rows
    """
    if not path.exists():
        raise DataError(
            f"There is nothing at {path}: name an image, a folder of them, a manifest.csv or a "
            "slide."
        )
    if path.is_dir():
        return _what_lies_in(path, choices, results)
    if path.suffix.lower() in manifests.SUFFIXES:
        return _listed_patches(path, path, choices)
    if slide_files.is_slide(path) or _is_slide_by_name(path):
        return Lying(rows=_no_rows(), slides=[path])
    return Lying(rows=_loose_rows([path.name], path.parent).assign(inside=True))


# --- folders --------------------------------------------------------------------------------------


def _what_lies_in(folder, choices, results):
    """Lying of a folder."""
    lying, results_aside = _without_results(_list(folder, choices), results)
    table = _manifest_in(folder, choices)
    if table:
        part = _listed_patches(folder, table, choices)
        part = _with_unlisted(part, folder, lying, table)
        return replace(part, aside=[*part.aside, *results_aside])

    slide_listing = _slides_in(folder, choices, set(lying.files))
    slide_paths = {str(slide) for slide in slide_listing.slides}
    images = []
    for file in lying.files:
        if file.lower().endswith(columns.SUFFIXES) and str(folder / file) not in slide_paths:
            images.append(file)
    layout, notes = _layout_of(folder, images, choices)
    rows = _rows_of(layout, {str(folder / file) for file in images}, choices)
    aside = _left_aside(folder, lying, set(rows["path"]) | slide_paths, slide_listing)
    return Lying(
        rows=rows,
        slides=slide_listing.slides,
        aside=[*aside, *results_aside],
        notes=notes,
        slide_problems=list(slide_listing.refused.values()),
    )


def _list(folder, choices):
    """Listing of a folder; DataError where it may not be read."""
    try:
        return listing.list_files(folder, allow=choices.allow)
    except OSError as error:
        raise DataError(f"{folder} may not be read: give yourself the right to read it.") from error


def _without_results(lying, results):
    """(Listing without the files below results, [(path, why)] of these)."""
    if results is None:
        return lying, []
    below = os.path.join(os.path.realpath(results), "")
    files = []
    aside = []
    for file in lying.files:
        if os.path.realpath(lying.root / file).startswith(below):
            aside.append((str(lying.root / file), RESULTS))
        else:
            files.append(file)
    return replace(lying, files=files), aside


def _slides_in(folder, choices, files):
    """SlideListing of files of a folder: sound slides, and what can be nothing but slides."""
    try:
        slide_listing = slide_files.find_slides([folder], allow=choices.allow)
    except DataError:
        # There is none.
        return slide_files.SlideListing()
    true_slides = []
    for slide in slide_listing.slides:
        if slide.relative_to(folder).as_posix() not in files:
            continue
        if _is_slide_by_name(slide) or slide_files.is_slide(slide):
            true_slides.append(slide)
    return replace(slide_listing, slides=true_slides)


def _is_slide_by_name(path):
    """bool, whether a file can be nothing but a slide by its ending; a .tif can."""
    suffix = path.suffix.lower()
    return suffix in slide_files.SUFFIXES and suffix not in columns.SUFFIXES


def _layout_of(folder, images, choices):
    """(Layout or None, sentences) of the images of a folder.

    Where no scores can be read, the images are patches all the same, and it is said why.
    """
    if not images:
        return None, []
    try:
        layout = layouts.read_layout(folder, choices)
    except DataError as error:
        why = []
        if _may_hold_scores(images, choices):
            why = [f"Scores are read from no folder and no name, and compared with none: {error}"]
        layout = _without_scores(folder, choices)
        # What a folder of no known layout is named after could be a slide or anything else.
        rows = layout.rows.assign(slide="")
        if not choices.patient_from:
            rows["patient"] = ""
        of_images = rows[rows["file"].isin(images)]
        example = layout_sentences.example_of(of_images, choices)
        sentence = layout_sentences.read_as(layout.name, example, detail="")
        return replace(layout, rows=rows), [sentence, *why]
    # What such a set's scores are worth goes with them.
    known_sets = [public_set for public_set in SETS if public_set.name == layout.looks_like]
    return layout, [*layout.sentences[:1], *map(sentence_of, known_sets)]


def _without_scores(folder, choices):
    """Layout of a folder of images of which nothing else is known."""
    return layouts.read_layout(folder, replace(choices, layout="images", score_from=""))


def _may_hold_scores(images, choices):
    """bool, whether a folder or a name could be meant for a score."""
    folders = {folder for file in images for folder in file.split("/")[:-1]}
    for folder in folders:
        if columns.parse_written_score(folder, choices.score_words) >= 0:
            return True
    return bool((folder_roles.read_tree(images)["score_of_name"] != "").any())


def _rows_of(layout, paths, choices):
    """DataFrame of a layout's rows at these paths, with those whose score is in dispute."""
    if layout is None:
        return _no_rows()
    disputed = [file for code, file, _ in layout.problems if code == "two scores"]
    rows = pd.concat([layout.rows, _loose_rows(disputed, layout.root)], ignore_index=True)
    rows = rows[rows["path"].isin(paths)].reset_index(drop=True)
    inside = layouts.paths_inside(rows["path"], layout.root, allow=choices.allow)
    return _with_places(rows).assign(inside=inside)


def _left_aside(folder, lying, read, slide_listing):
    """list of (path, why) of everything in a folder that is neither patch nor slide."""
    reasons = slide_files.REASONS
    of_slides = {file for file, code in slide_listing.left_aside if code == "part"}
    aside = []
    for file, code in lying.left_aside:
        if file not in slide_listing.refused:
            aside.append((str(folder / file), reasons[code]))
    for file in lying.files:
        if str(folder / file) in read or file in slide_listing.refused:
            continue
        why = NO_IMAGE
        if file in of_slides:
            why = reasons["part"]
        elif os.path.basename(file) in layouts.MANIFESTS:
            why = MANIFEST_BELOW
        elif file.lower().endswith(columns.SUFFIXES):
            why = OTHER_STAIN
        aside.append((str(folder / file), why))
    return aside


# --- manifests ------------------------------------------------------------------------------------


def _manifest_in(folder, choices):
    """Path of the manifest that a folder is read by; None where it has none."""
    if choices.layout not in ("", "manifest"):
        return None
    for name in layouts.MANIFESTS:
        if (folder / name).is_file():
            return folder / name
    return None


def _listed_patches(path, table, choices):
    """Lying of the rows of a manifest, with where each lies if `her2 tile` made it.

    path: the table, or the folder that is read by it.
    """
    layout, notes = _layout_of_table(path, choices)
    inside = layouts.paths_inside(layout.rows["path"], layout.root, allow=choices.allow)
    rows = _with_places(layout.rows).assign(inside=inside)
    cells = manifests.manifest_table(table, has_scores=False).cells
    if set(MEASURED) <= set(cells):
        for column in MEASURED:
            texts = cells[column].str.replace(",", ".")
            rows[column] = pd.to_numeric(texts, errors="coerce").to_numpy()
    return Lying(rows=rows, notes=notes)


def _layout_of_table(path, choices):
    """(Layout, sentences) of a manifest; one whose scores cannot be read names patches still."""
    try:
        layout = layouts.read_layout(path, choices)
    except DataError as error:
        layout = layouts.read_layout(path, replace(choices, score_from="none"))
        return layout, [*layout.sentences, f"Its patches are compared with no scores: {error}"]
    return layout, layout.sentences


def _with_unlisted(part, folder, lying, table):
    """Lying of a folder with a manifest: what the manifest does not list is left aside."""
    listed = {os.path.normpath(path) for path in part.rows["path"]} | {str(table)}
    aside = [(str(folder / file), listing.REASONS[code]) for file, code in lying.left_aside]
    why = NOT_LISTED.format(table.name)
    for file in lying.files:
        if os.path.normpath(folder / file) not in listed:
            aside.append((str(folder / file), why))
    return replace(part, aside=aside)


# --- rows -----------------------------------------------------------------------------------------


def _loose_rows(files, root):
    """DataFrame of images of which nothing is known but where they lie."""
    rows = pd.DataFrame(
        {"file": list(files), "path": [str(root / file) for file in files]}, dtype=object
    )
    return _with_places(columns.as_raw_table(rows))


def _no_rows():
    return _loose_rows([], Path()).assign(inside=np.zeros(0, bool))


def _with_places(rows):
    """DataFrame, rows that do not say where in a slide they lie."""
    return rows.assign(**dict.fromkeys(MEASURED, np.nan))
