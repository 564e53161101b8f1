"""Where patches lie and what is written about them: BCI folders, score folders, CSV manifests, as rows of words."""

import os
import re
import unicodedata
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.data import patches
from her2lib.data.images import DataError

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


def read_csv(path, **options):
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
    frame, found = _checked_csv(csv, "path", "score"), []
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
    frame = _checked_csv(csv, "name")
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
        while (
            parts
            and parts[0].lower() not in SETS
            and patches._score(parts[0]) < 0
            and len(parts) > 1
        ):
            parts.pop(0)
        part = SETS.get(parts[0].lower(), "") if parts else ""
        word = (parts[bool(part) :] or ["(no score folder)"])[0]
        rows.append({"file": file, "path": str(root / file), "word": word, "set": part})
    return root, rows if any(patches._score(row["word"]) >= 0 for row in rows) else [], found


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


def _checked_csv(path, *needed):
    """DataFrame of str, as cells() but stripped, columns in lower case, those needed among them."""
    try:
        frame = read_csv(path, index_col=False, skipinitialspace=True)
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
