"""New patches in whatever form they come: images, folders of them, manifests, and slides to cut.

Every file is read, refused or left aside; each of them is named, and their numbers add up.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from her2lib.data import field, judging
from her2lib.data.images import probe_files
from her2lib.data.known_scale import STATED, with_known_scale
from her2lib.intake import columns, layouts
from her2lib.intake.choices import FIND_OUT, Choices
from her2lib.intake.layout_sentences import count_text
from her2lib.scoring import new_folders
from her2lib.scoring.new_folders import Lying
from her2lib.slides import slide_files, tiling

# What is known of a patch before it is scored; NaN where it is not, score_given -1.
COLUMNS = [
    "patch",
    "path",
    "slide",
    "patient",
    "x",
    "y",
    "mpp",
    "dab",
    "score_given",
    "mpp_from",
    "side_px",
]
LEFT_OUT = ["file", "fate", "problem", "remedy"]
NUMBERS = ["x", "y", "mpp", "dab"]
SAME_BYTES = "the same bytes as"
FIRST_FEW = 3
# Of a file's score, set and readings nothing but the score is of use here.
UNUSED = ("unscored", "unscored set", "rater")


@dataclass(frozen=True)
class NewPatches:
    """What lies at some paths: patches to score, and what became of every other file."""

    table: pd.DataFrame  # COLUMNS, a row a patch
    left_out: pd.DataFrame  # LEFT_OUT, a row a file that is refused or left aside
    notes: list[str]  # as what all was read, and how many files there are
    problems: list[str]  # a sentence for each kind of refused file, with the remedy


def gather_patches(
    paths: Sequence[Path | str],
    folder: Path | str,
    *,
    choices: Choices = FIND_OUT,
    cache: Path | str | None = None,
    progress: bool = True,
    **cutting: Any,
) -> NewPatches:
    """NewPatches of images, folders of them, manifests, folders of `her2 tile`, and slides.

    Slides are cut first, into folder/tiles. Labels are read where they can be, and never needed.

    paths: what is to be scored.  choices: what the user states about it.
    cache: folder that keeps the checks of files for the next call.
    progress, cutting: the keywords of tiling.tile_slides.

    Raises DataError where nothing lies at a path.

    new = gather_patches(["new/"], "scored/", mpp=0.5)
    """
    lying = []
    for path in paths:
        lying.append(new_folders.what_lies_at(Path(path), choices, results=Path(folder)))
    whole = _joined(lying)
    rows, refused, aside, notes = _judge_rows(whole, choices, cache, progress)
    cut, slide_notes, problems = _cut_slides(whole.slides, Path(folder), choices, progress, cutting)
    tiles, no_fields = _without_other_fields(cut, choices, cache, progress)
    table = pd.concat([rows, tiles], ignore_index=True)
    table["patch"] = _unlike_names(table, table["file"])
    # Without slides, or without anything else, an empty table would make objects of numbers.
    table["score_given"] = table["score_given"].astype(int)
    table[NUMBERS] = table[NUMBERS].astype(float)
    counts = _count_sentence(len(rows), replace(whole, aside=aside), cut, refused)
    return NewPatches(
        table=table.reindex(columns=COLUMNS),
        left_out=_left_out_table([*refused, *no_fields], aside, [*whole.slide_problems, *problems]),
        notes=[
            counts,
            *whole.notes,
            *_known_sentences(rows),
            *_aside_sentences(aside),
            *notes,
            *slide_notes,
        ],
        problems=[*whole.slide_problems, *_refused_sentences([*refused, *no_fields]), *problems],
    )


# --- patches in files of their own ----------------------------------------------------------------


def _joined(parts):
    """Lying of all paths together; a file that two of them name lies there once."""
    rows_of_parts = []
    seen: set[str] = set()
    for part in parts:
        absolute = part.rows["path"].map(os.path.abspath)
        rows_of_parts.append(part.rows[(part.rows["path"] == "") | ~absolute.isin(seen)])
        seen.update(absolute)
    rows = pd.concat(rows_of_parts, ignore_index=True)
    all_slides = itertools.chain.from_iterable(part.slides for part in parts)
    aside = itertools.chain.from_iterable(part.aside for part in parts)
    return Lying(
        rows=rows,
        slides=list({os.path.realpath(slide): slide for slide in all_slides}.values()),
        aside=list({os.path.abspath(path): (path, why) for path, why in aside}.values()),
        notes=_unlike(part.notes for part in parts),
        slide_problems=_unlike(part.slide_problems for part in parts),
    )


def _unlike(lists):
    """list of str, the sentences of several lists, each once."""
    return list(dict.fromkeys(itertools.chain.from_iterable(lists)))


def _judge_rows(whole, choices, cache, progress):
    """(rows that can be scored, refused [(code, file, details)], aside [(path, why)], notes)."""
    rows = whole.rows.copy()
    notes = _forget_odd_labels(rows, choices)
    aside = list(whole.aside)
    facts = probe_files(rows["path"].where(rows["inside"], ""), cache=cache, progress=progress)
    facts.loc[~rows["inside"], "fault"] = "outside"
    facts.loc[~rows["inside"], "detail"] = layouts.roots_to_allow(rows["path"][~rows["inside"]])
    rows = pd.concat([rows, facts], axis=1)

    problems: list[tuple] = []
    unusable = judging.judge_texts(rows, problems, choices)
    refused = _first_problems(problems, rows[unusable])
    for row in rows[(rows["fault"] != "") & ~unusable].itertuples():
        refused.append((row.fault, row.file, (row.detail,)))
    rows = rows[~unusable & (rows["fault"] == "")].reset_index(drop=True)
    rows, copies, more = _without_copies(rows)
    aside += copies
    # As `her2 check` does it: the scale first, by which a field is looked at.
    rows, scale_notes = _with_scale(rows, choices, cache, progress)
    rows, no_fields = _without_other_fields(rows, choices, cache, progress)
    refused += no_fields
    notes += [*more, *_conversion_sentences(rows), *_oblong_sentences(rows), *scale_notes]
    return rows.rename(columns={"score": "score_given"}), refused, aside, notes


def _first_problems(problems, rows):
    """list of problems, the first of each of these rows, so that none counts twice."""
    first_of: dict[str, tuple] = {}
    for problem in problems:
        if problem[0] not in UNUSED:
            first_of.setdefault(problem[1], problem)
    return [first_of[file] for file in rows["file"]]


def _forget_odd_labels(rows, choices):
    """list of str, which scores cannot be read; they become unknown, their patches stay."""
    notes = []
    parse = columns.parse_written_score
    meanings = {text: parse(text, choices.score_words) for text in set(rows["score"])}
    odd = rows["score"].map(meanings) == columns.NOT_A_SCORE
    what, remedy = columns.other_scale(rows["score"], choices.score_words)
    if what:
        notes.append(f"The given scores are {what}: they are compared with nothing; {remedy}.")
        odd |= rows["score"].map(partial(columns.is_bare_number, score_words=choices.score_words))
    elif odd.any():
        first = rows[odd].iloc[0]
        notes.append(
            f"{count_text(int(odd.sum()), 'given score')} cannot be read, as {first.score!r} of "
            f"{judging.visible_text(first.file)}: these patches are scored and compared with "
            "nothing. --score-word says what a word means."
        )
    rows.loc[odd, "score"] = ""
    rows["set"] = ""
    return notes


def _without_copies(rows):
    """(rows, [(path, why)], notes): the same bytes are scored once, unless they lie in a slide."""
    of_slide = rows["x"].notna()
    first_of = rows.drop_duplicates("digest").set_index("digest")
    is_copy = rows["digest"].duplicated() & ~of_slide
    copies = []
    for row in rows[is_copy].itertuples():
        copies.append((row.path, f"{SAME_BYTES} {first_of['file'][row.digest]}, scored once"))
    known = rows[rows["score"] >= 0].groupby("digest")["score"].nunique()
    quarrelling = rows["digest"].isin(known.index[known > 1])
    notes = []
    if quarrelling.any():
        rows.loc[quarrelling, "score"] = columns.NOT_WRITTEN
        notes.append(
            f"{int(quarrelling.sum())} files of the same bytes have different scores "
            f"({rows['file'][quarrelling].iloc[0]}): they are compared with nothing."
        )
    return rows[~is_copy].reset_index(drop=True), copies, notes


def _with_scale(rows, choices, cache, progress):
    """(rows with mpp as it is stated or estimated, and mpp_from; sentences about it)."""
    notes = []
    n_unstated = int(rows["mpp"].isna().sum())
    if choices.mpp is not None and n_unstated:
        rows["mpp"] = rows["mpp"].fillna(choices.mpp)
        count = count_text(n_unstated, "patch", "patches")
        notes.append(f"Scale as stated: {choices.mpp:g} micrometres a pixel, for {count}.")
    rows, more = with_known_scale(
        rows, rows["side_px"], cache=cache, progress=progress, flag="--patch-mpp"
    )
    return rows, [*notes, *more]


def _without_other_fields(rows, choices, cache, progress):
    """(rows, refused [(code, file, details)]): without those that show no H-DAB field."""
    if choices.any_field or rows.empty:
        return rows, []
    mpp = rows["mpp"].astype(float).tolist()
    reasons = field.judge_files(rows["path"], mpp=mpp, cache=cache, progress=progress)
    refused: list[tuple] = []
    no_field = judging.judge_fields(rows, refused, reasons)
    return rows[~no_field].reset_index(drop=True), refused


# --- patches cut from slides ----------------------------------------------------------------------


def _cut_slides(paths, folder, choices, progress, cutting):
    """(rows of the patches cut now, notes, problems) of slides, which go to folder/tiles."""
    if not paths:
        return pd.DataFrame(columns=[*COLUMNS, "file"]), [], []
    tiles = folder / "tiles"
    done = tiling.tile_slides(paths, tiles, allow=choices.allow, progress=progress, **cutting)
    names = done.manifest["path"].astype(str)
    scores_given = []
    for text in done.manifest["score"].astype(str):
        score = columns.parse_written_score(text, choices.score_words)
        scores_given.append(max(score, columns.NOT_WRITTEN))
    rows = done.manifest.assign(
        file=[f"tiles/{name}" for name in names],
        path=[os.path.join(tiles, name) for name in names],
        score_given=scores_given,
        mpp_from=STATED,
    )
    rows["side_px"] = [_size(path) for path in rows["path"]]
    # The first counts the slides, which the count of all files does too.
    return rows, done.notes[1:], done.problems


def _size(path):
    """[width, height] in px of a patch that was just cut."""
    with Image.open(path) as image:
        return list(image.size)


# --- what is said ---------------------------------------------------------------------------------


def _count_sentence(n_patches, whole, tiles, refused):
    """str: read, refused and left aside, which together are all that lies there."""
    n_cut = tiles["slide"].nunique()
    n_refused = len(refused) + len(whole.slides) - n_cut + len(whole.slide_problems)
    n_there = n_patches + n_cut + n_refused + len(whole.aside)
    slides_read = ""
    if whole.slides or whole.slide_problems:
        slides_read = f" and {count_text(n_cut, 'slide')}, cut into {len(tiles):,} patches,"
    return (
        f"{count_text(n_there, 'file lies', 'files lie')} there: "
        f"{count_text(n_patches, 'patch', 'patches')}{slides_read} read, {n_refused:,} refused, "
        f"{len(whole.aside):,} left aside."
    )


def _known_sentences(rows):
    """list of str, of how many patches slide, patient or score are known, and the first of them."""
    facts = []
    for kind in ("slide", "patient"):
        known = rows[kind][rows[kind].fillna("") != ""]
        if len(known):
            facts.append(f"the {kind} of {len(known):,} ({slide_files.first_few(known.unique())})")
    n_scored = int((rows["score_given"] >= 0).sum())
    if n_scored:
        facts.append(f"a score of {n_scored:,}")
    if not facts:
        return []
    return [f"Known of {count_text(len(rows), 'patch', 'patches')}: {', '.join(facts)}."]


def _aside_sentences(aside):
    """list of str, one a reason: how many files were left aside, and the first of them."""
    files_of: dict[str, list[str]] = {}
    for file, why in aside:
        kind = why
        # the reason of a copy names the file that it is one of
        if why.startswith(SAME_BYTES):
            kind = f"{SAME_BYTES} another, scored once"
        files_of.setdefault(kind, []).append(judging.visible_text(file))
    return [
        f"{len(files):,} left aside ({kind}): {slide_files.first_few(files)}."
        for kind, files in files_of.items()
    ]


def _refused_sentences(refused):
    """list of str, one a kind of problem: which files are left out of the scores, and why."""
    problems = judging.problem_table(refused)
    is_field = problems["kind"] == "field"
    # fields that are none are told apart by what they are instead
    problems["kind"] = problems["kind"].where(~is_field, problems["problem"])
    problems["remedy"] = problems["remedy"].where(~is_field, "--any-field scores it all the same")
    sentences = []
    for _, same in problems.groupby("kind", sort=False):
        first = same.iloc[0]
        files = slide_files.first_few(list(same["file"]))
        if same["problem"].nunique() > 1:
            files = f"{count_text(len(same), 'file')} ({_told_one_by_one(same)})"
            sentences.append(f"{files} are left out; {first.remedy}.")
            continue
        verb = "are"
        if len(same) == 1:
            verb = "is"
        sentences.append(f"{files} {verb} left out: {first.problem}; {first.remedy}.")
    return sentences


def _told_one_by_one(problems):
    """str, the first files of a kind, each with its own words: CMYK here, LAB there."""
    rows = [f"{row.file}: {row.problem}" for row in problems.head(FIRST_FEW).itertuples()]
    if len(problems) > FIRST_FEW:
        rows.append(f"{len(problems) - FIRST_FEW:,} more")
    return "; ".join(rows)


def _conversion_sentences(rows):
    """list of str, one a kind: which images were not read as they are stored."""
    notes = []
    for row in rows.itertuples():
        for note in row.notes:
            notes.append((note, row.file, (row.detail,)))
    table = judging.problem_table(notes)
    sentences = []
    for problem, same in table.groupby("problem", sort=False):
        files = slide_files.first_few(list(same["file"]))
        sentences.append(f"{files}: {problem}.")
    return sentences


def _oblong_sentences(rows):
    """list of str, of which images only the middle square is scored, and how much that leaves."""
    if rows.empty:
        return []
    sizes = np.array(rows["side_px"].to_list(), float)
    cut_off = 1 - sizes.min(1) / sizes.max(1)
    oblong = cut_off > 0
    if not oblong.any():
        return []
    row = rows[oblong].iloc[0]
    width, height = row["side_px"]
    return [
        f"Not square: {int(oblong.sum()):,} of {count_text(len(rows), 'image')}. Only the middle "
        f"square of each is scored, up to {cut_off.max():.0%} of a picture is not "
        f"({judging.visible_text(row['file'])}: {width} x {height} px)."
    ]


def _left_out_table(refused, aside, slide_problems):
    """DataFrame LEFT_OUT, a row a file that is not scored; what is wrong with slides goes last."""
    problems = judging.problem_table(refused).assign(fate="refused")
    rows = [("", "of a slide", sentence, "") for sentence in slide_problems]
    for file, why in aside:
        rows.append((judging.visible_text(file), "left aside", judging.visible_text(why), ""))
    others = pd.DataFrame(rows, columns=LEFT_OUT)
    return pd.concat([problems[LEFT_OUT], others], ignore_index=True)


def _unlike_names(table, files):
    """list of str, the name of each patch: of its file, and where that comes twice, its path."""
    names = table["path"].map(os.path.basename)
    names = names.where(~names.duplicated(keep=False), files)
    return names.where(~names.duplicated(keep=False), table["path"]).tolist()
