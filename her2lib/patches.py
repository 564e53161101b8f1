"""Patches and scores from BCI folders, score folders or a CSV manifest, every problem listed before anything is trained on."""

import os
import re
import unicodedata
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.images import FAULTS, DataError, pixels, probe
from her2lib.splits import split, subset

__all__ = [
    "DataError",
    "Patches",
    "cells",
    "check",
    "pixels",
    "read",
    "split",
    "stop_on_errors",
    "subset",
]
COLUMNS = ("name", "path", "score", "slide", "patient", "mpp", "set", "he")
WORDS = (
    "file",
    "path",
    "word",
    "slide",
    "patient",
    "mpp",
    "set",
    "he",
)  # a patch as written, before it is judged
SETS = {
    "": "",
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "external": "external",
}
ALIKE = {
    "split": "set",
    "fold": "set",
    "label": "score",
    "class": "score",
    "file": "path",
    "filename": "path",
    "image": "path",
    "case": "patient",
    "wsi": "slide",
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MPP = (0.05, 10.0)  # from oil immersion to a loupe; beyond, the unit is wrong (nm, mm)
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


def read(path, *, allow_outside=False, deep=False, cache=None, progress=False):
    """(table, problems): one row per usable patch (COLUMNS, rater_*); one row per problem (severity, file, problem, remedy)."""
    root, rows, found = _layout(Path(path))
    inside = _inside(rows.path, root) | allow_outside
    rows["he"] = rows.he.where(_inside(rows.he, root) | allow_outside, "")
    facts = probe(rows.path.where(inside, ""), cache=cache, deep=deep, progress=progress)
    facts.loc[~inside, "fault"] = "outside"
    rows = pd.concat([rows, facts], axis=1)
    bad = _judge_words(rows, found) | _judge_files(rows, found)
    rows = rows[~bad].reset_index(drop=True)
    rows = rows[~_judge_twins(rows, found)].reset_index(drop=True)
    _judge_sets(rows, found)
    _judge_pairs(rows, found, probe(rows.he, cache=cache, deep=deep, progress=progress))
    return rows[[*COLUMNS, *_raters(rows)]], _problems(found)


def check(path, *, deep=True, progress=True):
    """(problems, counts): every problem of the data, each image decoded when deep; usable patches per set and score."""
    table, problems = read(path, deep=deep, progress=progress)
    written = table.score.map(scores.name).rename("score")
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


def cells(path, **options):
    """DataFrame of str of a CSV file with commas, semicolons or tabs, UTF-8 with or without BOM; options go to pandas."""
    with open(path, encoding="utf-8-sig") as lines:
        sign = max(
            ",;\t", key=lines.readline().count
        )  # spreadsheets of half of Europe write semicolons
    return pd.read_csv(
        path, sep=sign, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options
    )


def _layout(path):
    """(root, rows, found): every file of a manifest, BCI folder or score folders with its WORDS; the problems so far."""
    if path.is_file() and path.suffix.lower() == ".csv":
        return _manifest(path)
    if not path.is_dir():
        raise DataError(f"{path} is neither a folder nor a .csv manifest: check the path.")
    if (path / "manifest.csv").is_file():
        return _manifest(path / "manifest.csv")
    near = (
        [path.parent]
        if path.name == "IHC"
        else [path, *sorted(p for p in path.iterdir() if p.is_dir())]
    )
    bci = [root for root in near if (root / "IHC").is_dir()]
    if len(bci) > 1:
        raise DataError(
            f"{path} holds several BCI folders ({bci[0].name}, {bci[1].name}): name the one to read."
        )
    root, rows, found = _bci(bci[0]) if bci else _score_folders(path)
    if not rows:
        raise DataError(
            f"{path} holds no patches: expected a manifest.csv (path,score), BCI's IHC/train and IHC/test, or "
            f"folders named 0, 1+, 2+, 3+."
        )
    rows = pd.DataFrame(rows, dtype=object)
    return root, rows.reindex(columns=[*WORDS, *_raters(rows)], fill_value="").fillna(""), found


def _manifest(csv):
    """(root, rows, found) of a manifest; paths are relative to its folder."""
    frame, found = _csv(csv, "path", "score"), []
    if frame.empty:
        raise DataError(f"{csv} lists no patches: write one row per patch under path,score.")
    for column in set(frame) - {*WORDS, "score", *_raters(frame)}:
        meant = ALIKE.get(column) or next(
            iter(get_close_matches(column, ["rater_", *WORDS[3:]], n=1)), ""
        )
        found += [("column", csv.name, (repr(column), meant))] if meant else []
    rows = frame.rename(columns={"path": "file", "score": "word"}).astype(object)
    rows["path"] = [_locate(csv.parent, text) for text in rows.file]
    if "he" in rows:
        rows["he"] = [_locate(csv.parent, text) for text in rows.he]
    return csv.parent, rows.reindex(columns=[*WORDS, *_raters(rows)], fill_value=""), found


def _bci(root):
    """(root, rows, found) of a folder with IHC/train, IHC/test and, as pairs, HE/train and HE/test; phantom.csv adds slides."""
    found, rows = [], []
    files = {
        side: _walk(root / side, found) if (root / side).is_dir() else [] for side in ("IHC", "HE")
    }
    pairs = set(files["HE"])
    for file in files["IHC"]:
        part, named = (
            file.rpartition("/")[0].rpartition("/")[2],
            re.search(r"(?:_(train|test))?_([^_]*)$", Path(file).stem),
        )
        side, word = named.groups() if named else ("", "")
        rows.append(
            {
                "file": f"IHC/{file}",
                "path": str(root / "IHC" / file),
                "word": word or "(no score in the name)",
                "set": part or side,
                "he": str(root / "HE" / file) if file in pairs else "",
            }
        )
        found += (
            [("set name", f"IHC/{file}", (side, part))] if side and part and side != part else []
        )
    found += [
        ("stray", f"HE/{file}", ("an HE patch without its IHC partner",))
        for file in sorted(pairs - set(files["IHC"]))
    ]
    return root, _with_slides(rows, root / "phantom.csv"), found


def _with_slides(rows, csv):
    """list of rows with slide, patient, mpp and readings from phantom.csv's row of the same name, where there is that file."""
    if not csv.is_file():
        return rows
    frame = _csv(csv, "name")
    frame = frame[
        [
            column
            for column in frame
            if column in ("name", "slide", "patient", "mpp", *_raters(frame))
        ]
    ]
    facts = frame.drop_duplicates("name").set_index("name").to_dict("index")
    return [row | facts.get(os.path.basename(row["file"]), {}) for row in rows]


def _score_folders(root):
    """(root, rows, found) of folders named by score, under train, val or test if these are there."""
    found, rows = [], []
    for file in _walk(root, found):
        parts = file.split("/")[:-1]
        while parts and parts[0].lower() not in SETS and _score(parts[0]) < 0 and len(parts) > 1:
            parts.pop(0)
        part = SETS.get(parts[0].lower(), "") if parts else ""
        word = (parts[bool(part) :] or ["(no score folder)"])[0]
        rows.append({"file": file, "path": str(root / file), "word": word, "set": part})
    return root, rows if any(_score(row["word"]) >= 0 for row in rows) else [], found


def _walk(folder, found):
    """list of relative paths of the images under folder; what is no image, links to folders and locked ones go to found."""
    files, locked = [], []
    for here, folders, names in os.walk(folder, onerror=locked.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(here).relative_to(folder)
        found += [
            ("link", str(folder.name / below / name), ())
            for name in folders
            if os.path.islink(os.path.join(here, name))
        ]
        for name in sorted(name for name in names if not name.startswith(".")):
            image = name.lower().endswith(SUFFIXES)
            files += [(below / name).as_posix()] if image else []
            found += (
                []
                if image
                else [
                    (
                        "stray",
                        (folder.name / below / name).as_posix(),
                        ("no image by its name: left aside",),
                    )
                ]
            )
    found += [("locked", error.filename, (error.strerror,)) for error in locked]
    return files


def _csv(path, *needed):
    """DataFrame of str, as cells() but stripped, columns in lower case, those needed among them."""
    try:
        frame = cells(path, index_col=False, skipinitialspace=True)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save it as 'CSV UTF-8'.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(
            f"{path} is no table ({str(error).strip()}): give every row as many cells as the header."
        ) from error
    frame.columns = [str(column).strip().lower() for column in frame.columns]
    if missing := [column for column in needed if column not in frame]:
        raise DataError(
            f"{path} has no column {missing[0]!r}, only {', '.join(map(repr, frame.columns))}: name it so."
        )
    return frame.fillna("").apply(lambda column: column.str.strip())


def _locate(folder, text):
    """str, the path of a manifest's text; a name written with backslashes or in the other Unicode form is found too."""
    path = os.path.join(folder, text) if text else ""
    if not text or os.path.lexists(path):
        return path
    tries = [
        os.path.join(folder, unicodedata.normalize(form, text.replace("\\", "/")))
        for form in ("NFC", "NFD")
    ]
    return next((other for other in tries if os.path.lexists(other)), path)


def _inside(paths, root):
    """(N,) bool, whether each path, every link followed, ends in root."""
    root, parents = os.path.join(os.path.realpath(root), ""), {}

    def within(path):
        if os.path.islink(path):
            return os.path.realpath(path).startswith(root)
        folder, name = os.path.split(path)
        if folder not in parents:
            parents[folder] = os.path.join(os.path.realpath(folder), "").startswith(root)
        return parents[folder] and name != ".."

    return np.array([not path or within(path) for path in paths], bool)


def _raters(frame):
    """list of the columns that hold readings."""
    return [column for column in frame if column.startswith("rater_")]


def _score(word):
    """int 0..3, -1 for nothing written, -2 for what is no score."""
    try:
        return scores.parse(word) if word else -1
    except ValueError:
        return -2


def _mpp(word):
    """float micrometres a pixel, NaN for nothing written, 0 for what is no pixel size."""
    try:
        mpp = float(word.replace(",", ".")) if word else np.nan
    except ValueError:
        return 0.0
    return mpp if not word or MPP[0] <= mpp <= MPP[1] else 0.0


def _judge_words(rows, found):
    """(N,) bool, rows whose written score, set, mpp or name cannot be used; fills name, score, set, mpp and readings."""

    def once(column, meaning):
        return column.map({word: meaning(word) for word in set(column)})

    written = {"score": rows.pop("word"), "set": rows.set, "mpp": rows.mpp, "name": rows.file}
    rows["score"], rows["mpp"] = (
        once(written["score"], _score).astype(int),
        once(rows.mpp, _mpp).astype(float),
    )
    rows["set"] = once(rows.set, lambda word: SETS.get(word.lower(), "?"))
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
    for column in _raters(rows):
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
                ("torn", file, (" and ".join(map(scores.name, given)), ", ".join(same.file[:4])))
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
