"""Patches and their scores, every problem of the files listed before anything is trained."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.data import field, judging
from her2lib.data.images import probe_files, stat_files
from her2lib.data.judging import PROBLEMS as PROBLEMS
from her2lib.data.known_scale import STATED, with_known_scale
from her2lib.files import DataError
from her2lib.intake import columns, layouts
from her2lib.intake.choices import FIND_OUT, Choices
from her2lib.intake.layout_sentences import count_text, score_word_sentences
from her2lib.intake.layouts import Layout

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Patches:
    """N patches in one order: pixels, scores, where each comes from, and the set it stands in.

    len(p) counts them; p[:8], p[mask] and p[indices] are Patches again:
    `test = patches[patches.subset == "test"]`.
    """

    images: "torch.Tensor"  # (N,3,H,W) uint8, RGB; from a store: a file, read where it is used
    score: np.ndarray  # (N,) int, 0 to 3; -1 where nobody scored the patch
    slide: np.ndarray  # (N,) str, "" unknown
    patient: np.ndarray  # (N,) str, "" unknown
    name: np.ndarray  # (N,) str, unique within what was read together
    mpp: np.ndarray  # (N,) float, micrometres a pixel AFTER resizing; NaN unknown
    # (N,) str: train, val, test, external, or "" for none, which all have that are given none.
    subset: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.subset is None:
            object.__setattr__(self, "subset", np.full(len(self.score), "", object))

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: "slice | Sequence | np.ndarray") -> "Patches":
        """Patches of a slice, a mask (N,) or a sequence of indices, in that order."""
        # A copy, as torch takes no indices of negative stride: patches[::-1].
        indices = np.arange(len(self))[rows].copy()
        if indices.ndim != 1:
            raise TypeError(
                "Patches are taken by slice, mask or indices; one patch is patches[3:4]."
            )
        # Neighbouring rows stay a view of the store, others are copied into memory.
        if len(indices) and np.array_equal(indices, indices[0] + np.arange(len(indices))):
            rows = slice(indices[0], indices[0] + len(indices))
        else:
            rows = indices
        columns = {field.name: getattr(self, field.name)[rows] for field in fields(self)}
        return Patches(**columns)

    def take(self, rows: "slice | Sequence | np.ndarray") -> "Patches":
        """Patches of these rows: the same as patches[rows]."""
        return self[rows]


@dataclass(frozen=True)
class Source:
    """What lies at a path of a stranger: as what it was read, what of it can be used, what not."""

    table: pd.DataFrame  # a row a usable patch: columns.COLUMNS, mpp_from and rater_*
    problems: pd.DataFrame  # severity, file, problem, remedy, kind
    layout: Layout
    sentences: list[str]  # for her2 check, page one and the log: read as what, and what was not


# --- reading ----------------------------------------------------------------------------------


def read_source(
    path: Path | str,
    *,
    choices: Choices = FIND_OUT,
    open_images: bool = True,
    deep: bool = False,
    cache: Path | str | None = None,
    progress: bool = False,
) -> Source:
    """Source of a folder or manifest: its layout named, every file judged, everything counted.

    path: a folder with manifest.csv (path,score), a BCI folder, folders named by score, names that
    hold the score, a public set as downloaded, or a table (.csv, .tsv, .xlsx).
    choices: what the user states; what is not stated is found out, or refused if it cannot be.
    open_images: False believes the file system that an image is one.  deep: decode every image.
    cache: folder that keeps the checks of files for the next call.
    Raises DataError where nothing can be read or what lies there could be read in two ways; faults
    of single files are problems, not exceptions.

    Example: print(*read_source("my_patches/").sentences, sep="\\n")
    """
    layout = layouts.read_layout(Path(path), choices)
    rows = layout.rows.copy()
    problems = list(layout.problems)

    def look_at(paths):
        if not open_images:
            return stat_files(paths)
        return probe_files(paths, cache=cache, deep=deep, progress=progress)

    facts = _facts_inside(rows.path, layout.root, choices, look_at)
    rows = pd.concat([rows, facts], axis=1)
    declared = score_word_sentences(rows["score"], choices.score_words)
    unusable = judging.judge_texts(rows, problems, choices)
    scale = _state_mpp(rows, choices)
    unusable |= judging.judge_files(rows, problems)
    rows = rows[~unusable].reset_index(drop=True)
    rows = rows[~judging.judge_duplicates(rows, problems)].reset_index(drop=True)
    rows["mpp_from"] = np.where(rows.mpp.isna(), "", STATED)
    if open_images:
        rows, estimated = with_known_scale(rows, rows.side_px, cache=cache, progress=progress)
        scale += estimated
    if open_images and not choices.any_field:
        reasons = field.judge_files(rows.path, mpp=rows.mpp, cache=cache, progress=progress)
        no_field = judging.judge_fields(rows, problems, reasons)
        rows = rows[~no_field].reset_index(drop=True)
    judging.judge_sets(rows, problems)
    he_facts = _facts_inside(rows.he, layout.root, choices, look_at)
    judging.judge_partners(rows, problems, he_facts)

    table = rows[[*columns.COLUMNS, "mpp_from", *columns.rater_columns(rows)]]
    sentences = [*layout.sentences, *declared, *scale, _sum_sentence(layout, len(table))]
    # Names of strangers stand in them.
    sentences = [judging.visible_text(sentence) for sentence in sentences]
    return Source(table, judging.problem_table(problems), layout, sentences)


def read_table(
    path: Path | str,
    *,
    choices: Choices = FIND_OUT,
    deep: bool = False,
    cache: Path | str | None = None,
    progress: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(table, problems) of read_source: a row a usable patch; a row a problem with its remedy.

    table has the columns columns.COLUMNS and rater_* (score and readings 0 to 3, -1 unknown).

    Example: table, problems = read_table("my_patches/")
    """
    source = read_source(path, choices=choices, deep=deep, cache=cache, progress=progress)
    return source.table, source.problems


def check_patches(
    path: Path | str, *, choices: Choices = FIND_OUT, deep: bool = True, progress: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(problems, counts): every problem of the data; usable patches per set and score.

    deep: decode each image, which finds what headers and checksums do not tell.
    Raises DataError where nothing can be read, as read_source does.

    Example: problems, counts = check_patches("my_patches/")
    """
    table, problems = read_table(path, choices=choices, deep=deep, progress=progress)
    return problems, count_patches(table)


def count_patches(table: pd.DataFrame) -> pd.DataFrame:
    """DataFrame of the patches of every set (rows) and score (columns), with their sums."""
    score_names = table.score.map(scores.score_name).rename("score")
    sets = table["set"].replace("", "(none)")
    return pd.crosstab(sets, score_names, margins=True, margins_name="all")


def stop_on_errors(problems: pd.DataFrame, *, path: Path | str) -> None:
    """Raises DataError where a problem is an error: the first file, the count and the remedy."""
    errors = problems[problems.severity == "error"]
    if errors.empty:
        return
    first = errors.iloc[0]
    raise DataError(
        f"{first.file}: {first.problem} ({count_text(len(errors), 'error')} in all). "
        f"`her2 check {shlex.quote(str(path))}` lists each with its remedy; "
        f"--skip-bad goes on without these patches."
    )


# --- helpers ----------------------------------------------------------------------------------


def _facts_inside(paths, root, choices, look_at):
    """DataFrame as of probe_files; a path that leaves root and choices.allow is not looked at."""
    inside = layouts.paths_inside(paths, root, allow=choices.allow)
    facts = look_at(paths.where(inside, ""))
    facts.loc[~inside, "fault"] = "outside"
    facts.loc[~inside, "detail"] = layouts.roots_to_allow(paths[~inside])
    return facts


def _state_mpp(rows, choices):
    """list of str: how many patches take the scale that the user stated; fills it in."""
    unknown = rows["mpp"].isna()
    if choices.mpp is None or not unknown.any():
        return []
    rows["mpp"] = rows["mpp"].fillna(choices.mpp)
    count = count_text(int(unknown.sum()), "patch", "patches")
    return [f"Scale as stated: {choices.mpp:g} micrometres a pixel, for {count} without one."]


def _sum_sentence(layout, n_read):
    """str: read, refused and left aside, which together are all that is there."""
    refused = len(layout.rows) - n_read + layout.n_refused
    left_aside = layout.n_there - layout.n_partners - n_read - refused
    there = count_text(layout.n_there, "file lies there", "files lie there")
    if layout.name == "manifest":
        there = count_text(layout.n_there, "row is written", "rows are written")
    partners = ""
    if layout.n_partners:
        partners = f" {count_text(layout.n_partners, 'H&E partner')},"
    return f"{there}: {n_read:,} read,{partners} {refused:,} refused, {left_aside:,} left aside."
