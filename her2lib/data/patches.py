"""Patches and their scores, every problem of the files listed before anything is trained on them."""

import os
import unicodedata
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.data import layouts
from her2lib.data.images import FAULTS, DataError, probe_files

PROBLEMS = (
    FAULTS
    # code: severity, what is wrong, what to do; an error leaves the patch out, a warning does not
    | {
        "outside": (
            "error",
            "the path, or a link on it, leaves the folder",
            "move the file inside, or allow_outside=True",
        ),
        "link": ("error", "this link to a folder is not followed", "put the folder itself there"),
        "score": ("error", "{} is not a HER2 score", "write one of 0, 1+, 2+, 3+"),
        "unscored": (
            "warning",
            "no score is given: neither trained nor tested on",
            "fill in the score",
        ),
        "set": ("error", "{} is not a set", "write train, val, test, external or nothing"),
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
        "name": ("error", "the name holds control signs or is not Unicode", "rename the file"),
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
        "repeat": ("warning", "the same bytes as {}: counted once", "delete one of the two"),
        "leak": (
            "error",
            "the same bytes as {}, which is in the {} set",
            "delete it here, or training sees that set",
        ),
        "torn": (
            "error",
            "the same bytes stand with the scores {} ({})",
            "decide on one score, delete the other file",
        ),
        "partner": ("warning", "its HE partner: {}", "bring a sound HE file if you need pairs"),
        "stray": ("warning", "{}", "remove it, or bring what is missing"),
        "cut": (
            "warning",
            "{} {} stands in {}: these sets are not independent",
            "give each slide and patient to one set",
        ),
    }
)


@dataclass(frozen=True)
class Patches:
    """images (N,3,H,W) uint8 tensor; score (N,) int, -1 unknown; slide, patient, name (N,) str; mpp (N,) AFTER resizing."""

    images: object
    score: np.ndarray
    slide: np.ndarray
    patient: np.ndarray
    name: np.ndarray
    mpp: np.ndarray

    def __len__(self):
        """int, how many patches."""
        return len(self.score)

    def take(self, rows):
        """Patches of these rows (indices, mask or slice); neighbouring rows stay a view of the store, others are copied."""
        rows = np.arange(len(self))[rows]
        if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            rows = slice(rows[0], rows[0] + len(rows))
        return Patches(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def read_table(path, *, allow_outside=False, deep=False, cache=None, progress=False):
    """(table, problems): one row per usable patch (COLUMNS, rater_*); one row per problem (severity, file, problem, remedy)."""
    root, rows, found = layouts._layout(Path(path))
    inside = layouts._inside(rows.path, root) | allow_outside
    rows["he"] = rows.he.where(layouts._inside(rows.he, root) | allow_outside, "")
    facts = probe_files(rows.path.where(inside, ""), cache=cache, deep=deep, progress=progress)
    facts.loc[~inside, "fault"] = "outside"
    rows = pd.concat([rows, facts], axis=1)
    bad = _judge_words(rows, found) | _judge_files(rows, found)
    rows = rows[~bad].reset_index(drop=True)
    rows = rows[~_judge_twins(rows, found)].reset_index(drop=True)
    _judge_sets(rows, found)
    _judge_pairs(rows, found, probe_files(rows.he, cache=cache, deep=deep, progress=progress))
    return rows[[*layouts.COLUMNS, *layouts._raters(rows)]], _problems(found)


def check_patches(path, *, deep=True, progress=True):
    """(problems, counts): every problem of the data, each image decoded when deep; usable patches per set and score."""
    table, problems = read_table(path, deep=deep, progress=progress)
    written = table.score.map(scores.score_name).rename("score")
    return problems, pd.crosstab(
        table.set.replace("", "(none)"), written, margins=True, margins_name="all"
    )


def stop_on_errors(problems, *, path):
    """None when no problem is an error; else DataError naming the first file, the count and the remedy."""
    errors = problems[problems.severity == "error"]
    if len(errors):
        first = errors.iloc[0]
        raise DataError(
            f"{first.file}: {first.problem} ({len(errors)} {'errors' if len(errors) > 1 else 'error'} in all). "
            f"`her2 check {path}` lists each with its remedy; --skip-bad goes on without these patches."
        )


def _score(word):
    """int 0..3, -1 for nothing written, -2 for what is no score."""
    try:
        return scores.parse_score(word) if word else -1
    except ValueError:
        return -2


def _mpp(word):
    """float micrometres a pixel, NaN for nothing written, 0 for what is no pixel size."""
    try:
        mpp = float(word.replace(",", ".")) if word else np.nan
    except ValueError:
        return 0.0
    return mpp if not word or layouts.MPP[0] <= mpp <= layouts.MPP[1] else 0.0


def _judge_words(rows, found):
    """(N,) bool, rows whose written score, set, mpp or name cannot be used; fills name, score, set, mpp and readings."""

    def once(column, meaning):
        return column.map({word: meaning(word) for word in set(column)})

    written = {"score": rows.pop("word"), "set": rows.set, "mpp": rows.mpp, "name": rows.file}
    rows["score"], rows["mpp"] = (
        once(written["score"], _score).astype(int),
        once(rows.mpp, _mpp).astype(float),
    )
    rows["set"] = once(rows.set, lambda word: layouts.SETS.get(word.lower(), "?"))
    odd = once(
        rows.file,
        lambda file: (
            not file.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in file)
        ),
    )
    wrong = {
        "score": rows.score == -2,
        "set": rows.set == "?",
        "mpp": rows.mpp == 0,
        "name": odd.astype(bool),
    }
    for code, mask in wrong.items():
        found += [(code, rows.file[i], (repr(written[code][i]),)) for i in rows.index[mask]]
    found += [("unscored", file, ()) for file in rows.file[rows.score == -1]]
    for column in layouts._raters(rows):
        words, rows[column] = rows[column], once(rows[column], _score).astype(int)
        found += [
            ("rater", rows.file[i], (f"{words[i]!r} by {column}",))
            for i in rows.index[rows[column] == -2]
        ]
        rows[column] = rows[column].clip(lower=-1)
    name = rows.file.map(os.path.basename)
    rows["name"] = name.where(~name.duplicated(keep=False), rows.file)
    return np.logical_or.reduce(list(wrong.values()))


def _judge_files(rows, found):
    """(N,) bool, rows whose file cannot be used; found also tells what is converted, cropped or of another size."""
    for row in rows[(rows.fault != "") | rows.notes.astype(bool)].itertuples():
        found += [
            (code, row.file, (row.detail,)) for code in ([row.fault] if row.fault else row.notes)
        ]
    good = rows[rows.fault == ""]
    shown = good.side_px.map("{0[0]} x {0[1]} px".format)
    found += [
        ("oblong", file, (text,))
        for file, (w, h), text in zip(good.file, good.side_px, shown, strict=True)
        if w != h
    ]
    for usual in shown[good.mpp.isna()].mode()[:1]:
        other = good.mpp.isna() & (shown != usual)
        found += [
            ("size", file, (text, usual))
            for file, text in zip(good.file[other], shown[other], strict=True)
        ]
    return (rows.fault != "").to_numpy()


def _judge_twins(rows, found):
    """(N,) bool, rows left out because their bytes stand elsewhere: the test set's copy stays; of two scores neither does."""
    out = np.zeros(len(rows), bool)
    rank = rows.set.map({"test": 0, "external": 1, "val": 2, "train": 3, "": 4}) + 9 * (
        rows.score < 0
    )
    for _, same in rows.assign(rank=rank)[rows.digest.duplicated(keep=False)].groupby(
        "digest", sort=False
    ):
        same = same.sort_values("rank", kind="stable")
        given, kept = sorted(set(same.score[same.score >= 0])), same.iloc[0]
        out[same.index[len(given) < 2 :]] = True
        if len(given) > 1:
            found += [
                (
                    "torn",
                    file,
                    (" and ".join(map(scores.score_name, given)), ", ".join(same.file[:4])),
                )
                for file in same.file
            ]
            continue
        found += [
            ("leak", row.file, (kept.file, kept.set))
            if row.set != kept.set and kept.set not in ("", "train")
            else ("repeat", row.file, (kept.file,))
            for row in same[1:].itertuples()
        ]
    return out


def _judge_sets(rows, found):
    """None; slides and patients on both sides of the sets as given go to found."""
    for kind in ("slide", "patient"):
        for word, part in rows[(rows.set != "") & (rows[kind] != "")].groupby(kind):
            if part.set.nunique() > 1:
                found.append(
                    ("cut", part.file.iloc[0], (kind, word, " and ".join(sorted(set(part.set)))))
                )


def _judge_pairs(rows, found, facts):
    """None; HE partners that are missing, unusable or of another size go to found; unusable ones leave rows."""
    for i in rows.index if (rows.he != "").any() else ():
        fault = (
            "there is none"
            if not rows.he[i]
            else PROBLEMS[facts.fault[i]][1]
            if facts.fault[i]
            else ""
        )
        if fault or facts.side_px[i] != rows.side_px[i]:
            found.append(
                ("partner", rows.file[i], (fault.format(facts.detail[i]) or "it has another size",))
            )
    rows["he"] = rows.he.where(facts.fault == "", "")


def _problems(found):
    """DataFrame (severity, file, problem, remedy), errors first; control signs in strangers' names are written out."""

    def shown(text):
        signs = text if not text.isprintable() else ()
        return (
            "".join(
                c.encode("unicode_escape").decode() if unicodedata.category(c)[0] == "C" else c
                for c in signs
            )
            or text
        )

    rows = [
        (
            PROBLEMS[code][0],
            shown(file),
            *(shown(text.format(*details)) for text in PROBLEMS[code][1:]),
        )
        for code, file, details in found
    ]
    return pd.DataFrame(sorted(rows), columns=["severity", "file", "problem", "remedy"])
