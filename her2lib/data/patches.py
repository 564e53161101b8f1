"""Patches and their scores, every problem of the files listed before anything is trained."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.data import layouts
from her2lib.data.images import FAULTS, DataError, probe_files

if TYPE_CHECKING:
    import torch

# code: (severity, what is wrong, what to do), besides the faults of single files.
# An error leaves the patch out, a warning does not.
PROBLEMS = FAULTS | {
    "outside": (
        "error",
        "the path, or a link on it, leaves the folder",
        "move the file inside, or allow_outside=True",
    ),
    "link": (
        "error",
        "this link to a folder is not followed",
        "put the folder itself there",
    ),
    "score": (
        "error",
        "{} is not a HER2 score",
        "write one of 0, 1+, 2+, 3+",
    ),
    "unscored": (
        "warning",
        "no score is given: neither trained nor tested on",
        "fill in the score",
    ),
    "set": (
        "error",
        "{} is not a set",
        "write train, val, test, external or nothing",
    ),
    "set name": (
        "warning",
        "its name says {}, its folder {}: the folder counts",
        "rename or move the file",
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
    "leak": (
        "error",
        "the same bytes as {}, which is in the {} set",
        "delete it here, or training sees that set",
    ),
    "conflicting": (
        "error",
        "the same bytes stand with the scores {} ({})",
        "decide on one score, delete the other file",
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
# Of patches with the same bytes the first in this order stays: what training must not see.
DUPLICATE_ORDER = {"test": 0, "external": 1, "val": 2, "train": 3, "": 4}


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


# --- reading ----------------------------------------------------------------------------------


def read_table(
    path: Path | str,
    *,
    allow_outside: bool = False,
    deep: bool = False,
    cache: Path | str | None = None,
    progress: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(table, problems): one row a usable patch; one a problem (severity, file, problem, remedy).

    path: a folder with manifest.csv (path,score), a BCI folder, folders named by score, or a CSV.
    table has the columns layouts.COLUMNS and rater_* (score and readings 0 to 3, -1 unknown).
    allow_outside: take files outside the folder too. deep: decode every image.
    cache: folder that keeps the checks of files for the next call.
    Raises DataError where nothing can be read; faults of single files are problems, not exceptions.

    Example: table, problems = read_table("my_patches/")
    """
    root, rows, problems = layouts.read_layout(Path(path))
    inside = layouts.paths_inside(rows.path, root) | allow_outside
    he_inside = layouts.paths_inside(rows.he, root) | allow_outside
    rows["he"] = rows.he.where(he_inside, "")

    facts = probe_files(rows.path.where(inside, ""), cache=cache, deep=deep, progress=progress)
    facts.loc[~inside, "fault"] = "outside"
    rows = pd.concat([rows, facts], axis=1)

    unusable = _judge_texts(rows, problems) | _judge_files(rows, problems)
    rows = rows[~unusable].reset_index(drop=True)
    rows = rows[~_judge_duplicates(rows, problems)].reset_index(drop=True)
    _judge_sets(rows, problems)
    he_facts = probe_files(rows.he, cache=cache, deep=deep, progress=progress)
    _judge_partners(rows, problems, he_facts)
    table = rows[[*layouts.COLUMNS, *layouts.rater_columns(rows)]]
    return table, _problem_table(problems)


def check_patches(
    path: Path | str, *, deep: bool = True, progress: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(problems, counts): every problem of the data; usable patches per set and score.

    deep: decode each image, which finds what headers and checksums do not tell.
    Raises DataError where nothing can be read, as read_table does.

    Example: problems, counts = check_patches("my_patches/")
    """
    table, problems = read_table(path, deep=deep, progress=progress)
    score_names = table.score.map(scores.score_name).rename("score")
    sets = table["set"].replace("", "(none)")
    return problems, pd.crosstab(sets, score_names, margins=True, margins_name="all")


def stop_on_errors(problems: pd.DataFrame, *, path: Path | str) -> None:
    """Raises DataError where a problem is an error: the first file, the count and the remedy."""
    errors = problems[problems.severity == "error"]
    if errors.empty:
        return
    first = errors.iloc[0]
    count = f"{len(errors)} error"
    if len(errors) > 1:
        count += "s"
    raise DataError(
        f"{first.file}: {first.problem} ({count} in all). "
        f"`her2 check {path}` lists each with its remedy; "
        f"--skip-bad goes on without these patches."
    )


# --- judging what is written ------------------------------------------------------------------
# Each of these adds (code in PROBLEMS, file, details of its sentence) to problems.


def _judge_texts(rows, problems):
    """(N,) bool, rows whose score, set, mpp or name cannot be used; turns text into values."""
    texts = rows[["score", "set", "mpp"]].assign(name=rows.file)
    rows["score"] = _map_unique(texts["score"], layouts.parse_written_score).astype(int)
    rows["set"] = _map_unique(texts["set"], _parse_set)
    rows["mpp"] = _map_unique(texts["mpp"], _parse_mpp).astype(float)
    unusable = {
        "score": rows["score"] == layouts.NOT_A_SCORE,
        "set": rows["set"] == "?",
        "mpp": rows["mpp"] == 0,
        "name": _map_unique(rows.file, _has_control_signs).astype(bool),
    }
    for code, mask in unusable.items():
        for file, text in zip(rows.file[mask], texts[code][mask], strict=True):
            problems.append((code, file, (repr(text),)))
    for file in rows.file[rows["score"] == layouts.NOT_WRITTEN]:
        problems.append(("unscored", file, ()))

    _judge_readings(rows, problems)
    name = rows.file.map(os.path.basename)
    rows["name"] = name.where(~name.duplicated(keep=False), rows.file)
    return np.logical_or.reduce(list(unusable.values()))


def _judge_readings(rows, problems):
    """Turns the readings of every rater into 0 to 3, -1 for not read or not readable."""
    for column in layouts.rater_columns(rows):
        texts = rows[column]
        readings = _map_unique(texts, layouts.parse_written_score).astype(int)
        wrong = readings == layouts.NOT_A_SCORE
        for file, text in zip(rows.file[wrong], texts[wrong], strict=True):
            problems.append(("rater", file, (f"{text!r} by {column}",)))
        rows[column] = readings.clip(lower=layouts.NOT_WRITTEN)


def _map_unique(column: pd.Series, meaning: Callable) -> pd.Series:
    """Series of the meaning of every text; each text is looked at once, however often it stands."""
    return column.map({text: meaning(text) for text in set(column)})


def _parse_set(text):
    """str, the set of a written one; "?" for what is no set."""
    return layouts.SETS.get(text.lower(), "?")


def _parse_mpp(text):
    """float micrometres a pixel, NaN for nothing written, 0 for what is no pixel size."""
    if not text:
        return np.nan
    try:
        mpp = float(text.replace(",", "."))
    except ValueError:
        return 0.0
    smallest, largest = layouts.MPP
    if smallest <= mpp <= largest:
        return mpp
    return 0.0


def _has_control_signs(text):
    """bool, whether a name would act on a terminal or is not Unicode."""
    if text.isprintable():
        return False
    return any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text)


# --- judging files ----------------------------------------------------------------------------


def _judge_files(rows, problems):
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


def _judge_duplicates(rows, problems):
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
            files = ", ".join(same.file[:4])
            for file in same.file:
                problems.append(("conflicting", file, (written, files)))
            continue

        left_out[same.index[1:]] = True
        first = same.iloc[0]
        for row in same[1:].itertuples():
            leaks = row.set != first.set and first.set not in ("", "train")
            if leaks:
                problems.append(("leak", row.file, (first.file, first.set)))
            else:
                problems.append(("repeat", row.file, (first.file,)))
    return left_out


def _judge_sets(rows, problems):
    """Tells which slides and patients stand on both sides of the sets as given."""
    for kind in ("slide", "patient"):
        used = rows[(rows["set"] != "") & (rows[kind] != "")]
        for identifier, members in used.groupby(kind):
            if members["set"].nunique() > 1:
                sets = " and ".join(sorted(set(members["set"])))
                problems.append(("cut", members.file.iloc[0], (kind, identifier, sets)))


def _judge_partners(rows, problems, facts):
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


def _problem_table(problems):
    """DataFrame (severity, file, problem, remedy), errors first."""
    rows = []
    for code, file, details in problems:
        severity, problem, remedy = PROBLEMS[code]
        sentences = [_visible_text(text.format(*details)) for text in (problem, remedy)]
        rows.append((severity, _visible_text(file), *sentences))
    return pd.DataFrame(sorted(rows), columns=["severity", "file", "problem", "remedy"])


def _visible_text(text):
    """str, text with the control signs of strangers' names written out, so that none acts."""
    if text.isprintable():
        return text
    return "".join(map(_visible_sign, text))


def _visible_sign(sign):
    """str, a sign, or what it is where it is a control sign: chr(27) becomes backslash x1b."""
    if unicodedata.category(sign)[0] == "C":
        return sign.encode("unicode_escape").decode()
    return sign
