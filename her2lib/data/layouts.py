"""Where patches lie and what is written about them: BCI folders, score folders, CSV manifests."""

import os
import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.data.images import DataError

# A patch after it was judged (a row of read_table), and before, all in text as it was written.
COLUMNS = ("name", "path", "score", "slide", "patient", "mpp", "set", "he")
RAW_COLUMNS = ("file", "path", "score", "slide", "patient", "mpp", "set", "he")
# Besides path and score, a manifest may have these columns and one rater_* for each reader.
OPTIONAL_COLUMNS = ("slide", "patient", "mpp", "set", "he")

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
# Headings that others write, and the column that is meant.
SYNONYMS = {
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
# Micrometres a pixel, from oil immersion to a loupe; beyond, the unit is wrong (nm, mm).
MPP = (0.05, 10.0)

NOT_WRITTEN = -1
NOT_A_SCORE = -2


def read_csv(path: Path | str, **options) -> pd.DataFrame:
    """DataFrame of str of a CSV file: commas, semicolons or tabs, UTF-8; options go to pandas."""
    with open(path, encoding="utf-8-sig") as lines:
        header = lines.readline()
    # Spreadsheets of half of Europe write semicolons.
    separator = max(",;\t", key=header.count)
    return pd.read_csv(
        path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options
    )


def read_layout(path: Path) -> tuple[Path, pd.DataFrame, list]:
    """(root, rows, problems): RAW_COLUMNS and rater_* of every file, as written; what is odd.

    A problem is a tuple (code in patches.PROBLEMS, file, details of its sentence).
    Raises DataError where there is nothing that could be a patch.
    """
    if path.is_file() and path.suffix.lower() == ".csv":
        return _read_manifest(path)
    if not path.is_dir():
        raise DataError(f"{path} is neither a folder nor a .csv manifest: check the path.")
    if (path / "manifest.csv").is_file():
        return _read_manifest(path / "manifest.csv")

    root = _bci_root(path)
    if root:
        rows, problems = _read_bci(root)
    else:
        root = path
        rows, problems = _read_score_folders(root)
    if not rows:
        raise DataError(
            f"{path} holds no patches: expected a manifest.csv (path,score), "
            f"BCI's IHC/train and IHC/test, or folders named 0, 1+, 2+, 3+."
        )
    return root, _as_raw_table(pd.DataFrame(rows, dtype=object)), problems


def parse_written_score(text: str) -> int:
    """int 0..3, NOT_WRITTEN (-1) for an empty text, NOT_A_SCORE (-2) for what is no score."""
    if not text:
        return NOT_WRITTEN
    try:
        return scores.parse_score(text)
    except ValueError:
        return NOT_A_SCORE


def rater_columns(frame: pd.DataFrame) -> list[str]:
    """list of the columns that hold the readings of one rater each."""
    return [column for column in frame if column.startswith("rater_")]


def paths_inside(paths: Iterable[str], root: Path) -> np.ndarray:
    """(N,) bool, whether each path, every link followed, ends in root; an empty path does."""
    real_root = os.path.join(os.path.realpath(root), "")
    # Many files lie in few folders: the links of a folder are followed once.
    folder_is_inside = {}
    inside = []
    for path in paths:
        folder, name = os.path.split(path)
        if not path:
            inside.append(True)
        elif os.path.islink(path):
            inside.append(os.path.realpath(path).startswith(real_root))
        else:
            if folder not in folder_is_inside:
                target = os.path.join(os.path.realpath(folder), "")
                folder_is_inside[folder] = target.startswith(real_root)
            inside.append(folder_is_inside[folder] and name != "..")
    return np.array(inside, bool)


# --- manifests --------------------------------------------------------------------------------


def _read_manifest(csv):
    """(root, rows, problems) of a manifest; paths are relative to its folder."""
    frame = _read_clean_csv(csv, "path", "score")
    if frame.empty:
        raise DataError(f"{csv} lists no patches: write one row per patch under path,score.")

    known = ["path", "score", *OPTIONAL_COLUMNS, *rater_columns(frame)]
    problems = []
    for column in frame:
        meant = _meant_column(column)
        if column not in known and meant:
            problems.append(("column", csv.name, (repr(column), meant)))

    rows = frame[[column for column in frame if column in known]].astype(object)
    rows["file"] = rows.path
    rows["path"] = [_locate(csv.parent, text) for text in rows.path]
    if "he" in rows:
        rows["he"] = [_locate(csv.parent, text) for text in rows.he]
    return csv.parent, _as_raw_table(rows), problems


def _read_clean_csv(path, *needed):
    """DataFrame of str as read_csv, stripped, columns in lower case, those needed among them."""
    try:
        frame = read_csv(path, index_col=False, skipinitialspace=True)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save it as 'CSV UTF-8'.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(
            f"{path} is no table ({str(error).strip()}): "
            f"give every row as many cells as the header."
        ) from error
    frame.columns = [str(column).strip().lower() for column in frame.columns]
    for column in needed:
        if column not in frame:
            there = ", ".join(map(repr, frame.columns))
            raise DataError(f"{path} has no column {column!r}, only {there}: name it so.")
    return frame.fillna("").apply(lambda column: column.str.strip())


def _meant_column(heading):
    """str, the column that a heading nearly is or is another word for; "" for none."""
    if heading in SYNONYMS:
        return SYNONYMS[heading]
    close = get_close_matches(heading, ["rater_", *OPTIONAL_COLUMNS], n=1)
    if not close:
        return ""
    return close[0]


def _locate(folder, text):
    """str, the path of a manifest's text, also with backslashes or in the other Unicode form."""
    if not text:
        return ""
    path = os.path.join(folder, text)
    if os.path.lexists(path):
        return path
    for form in ("NFC", "NFD"):
        other = os.path.join(folder, unicodedata.normalize(form, text.replace("\\", "/")))
        if os.path.lexists(other):
            return other
    return path


def _as_raw_table(rows):
    """DataFrame with RAW_COLUMNS and rater_*, "" where nothing is written."""
    columns = [*RAW_COLUMNS, *rater_columns(rows)]
    return rows.reindex(columns=columns, fill_value="").fillna("")


# --- BCI folders ------------------------------------------------------------------------------


def _bci_root(path):
    """Path of the BCI folder at, above (for IHC itself) or one level below path; None for none."""
    candidates = [path, *sorted(child for child in path.iterdir() if child.is_dir())]
    if path.name == "IHC":
        candidates = [path.parent]
    roots = [folder for folder in candidates if (folder / "IHC").is_dir()]
    if len(roots) > 1:
        raise DataError(
            f"{path} holds several BCI folders ({roots[0].name}, {roots[1].name}): "
            f"name the one to read."
        )
    if not roots:
        return None
    return roots[0]


def _read_bci(root):
    """(rows, problems) of IHC/train, IHC/test and, as pairs, HE/train, HE/test."""
    ihc_files, problems = _list_images(root / "IHC")
    he_files = []
    if (root / "HE").is_dir():
        he_files, he_problems = _list_images(root / "HE")
        problems += he_problems

    pairs = set(he_files)
    rows = []
    for file in ihc_files:
        set_of_name, score = _parse_bci_name(file)
        set_of_folder = Path(file).parent.name
        he = ""
        if file in pairs:
            he = str(root / "HE" / file)
        rows.append(
            {
                "file": f"IHC/{file}",
                "path": str(root / "IHC" / file),
                "score": score or "(no score in the name)",
                "set": set_of_folder or set_of_name,
                "he": he,
            }
        )
        if set_of_name and set_of_folder and set_of_name != set_of_folder:
            problems.append(("set name", f"IHC/{file}", (set_of_name, set_of_folder)))
    for file in pairs - set(ihc_files):
        problems.append(("stray", f"HE/{file}", ("an HE patch without its IHC partner",)))
    return _add_phantom_facts(rows, root / "phantom.csv"), problems


def _parse_bci_name(file):
    """(set, score), as written, of a name such as train/00012_train_2+.png; "" for none."""
    match = re.search(r"(?:_(train|test))?_([^_]*)$", Path(file).stem)
    if not match:
        return "", ""
    set_of_name, score = match.groups()
    return set_of_name or "", score


def _add_phantom_facts(rows, csv):
    """list of rows with slide, patient, mpp and readings from phantom.csv, where it is there."""
    if not csv.is_file():
        return rows
    frame = _read_clean_csv(csv, "name")
    known = ["name", "slide", "patient", "mpp", *rater_columns(frame)]
    frame = frame[[column for column in frame if column in known]]
    facts = frame.drop_duplicates("name").set_index("name").to_dict("index")
    return [row | facts.get(os.path.basename(row["file"]), {}) for row in rows]


# --- score folders ----------------------------------------------------------------------------


def _read_score_folders(root):
    """(rows, problems) of folders named by score, under train, val or test if these are there."""
    files, problems = _list_images(root)
    rows = []
    any_score = False
    for file in files:
        subset, score = _parse_folders(file)
        any_score = any_score or parse_written_score(score) >= 0
        rows.append({"file": file, "path": str(root / file), "score": score, "set": subset})
    if not any_score:
        rows = []
    return rows, problems


def _parse_folders(file):
    """(set, score as written) of a path such as train/2+/a.png or any/2+/slide7/a.png."""
    folders = file.split("/")[:-1]
    while len(folders) > 1 and not _is_set_or_score(folders[0]):
        folders.pop(0)
    subset = ""
    if folders:
        subset = SETS.get(folders[0].lower(), "")
    if subset:
        folders.pop(0)
    if not folders:
        return subset, "(no score folder)"
    return subset, folders[0]


def _is_set_or_score(folder):
    return folder.lower() in SETS or parse_written_score(folder) >= 0


# --- both kinds of folders --------------------------------------------------------------------


def _list_images(folder):
    """(relative paths of the images under folder, problems: no image, linked or locked folders)."""
    images = []
    problems = []
    errors = []
    for parent, folders, names in os.walk(folder, onerror=errors.append):
        below = Path(parent).relative_to(folder)
        folders[:] = _visible(folders)
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                problems.append(("link", str(folder.name / below / name), ()))
        for name in _visible(names):
            if name.lower().endswith(SUFFIXES):
                images.append((below / name).as_posix())
            else:
                stray = (folder.name / below / name).as_posix()
                problems.append(("stray", stray, ("no image by its name: left aside",)))
    for error in errors:
        problems.append(("locked", error.filename, (error.strerror,)))
    return images, problems


def _visible(names):
    """list of names in order, without the hidden ones."""
    return sorted(name for name in names if not name.startswith("."))
