"""Readers: blinded sheets out, readings in, consensus into the manifest."""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.data.layouts import read_csv
from her2lib.data.patches import read_table
from her2lib.files import fingerprint, make_folder, write_table, write_text
from her2lib.stats.coefficients import rating_counts

# A table of ratings is tidy: one row is one reading of one patch by one rater.
TIDY = ["patch", "rater", "reading", "score"]
PAGE = Path(__file__).parent / "sheet.html"


# --- consensus ------------------------------------------------------------------------------------


def consensus(ratings: np.ndarray, *, how: str = "majority") -> tuple[np.ndarray, list[str]]:
    """((N,) scores, -1 where nothing is settled; sentences) of ratings (N,R; -1 missing).

    how: the "majority" or the "median" of the ratings; a tie settles nothing. Raises ValueError
    for another word.

    consensus(np.array([[1, 1, 2], [0, 3, -1]]))  # scores [1, -1]
    """
    if how not in ("majority", "median"):
        raise ValueError(
            f"A consensus is made by majority or median, not {how!r}; one made elsewhere goes to "
            "merge_readings(settled=…)."
        )
    votes = rating_counts(ratings)  # (N,4)
    if how == "majority":
        most = votes == votes.max(1, keepdims=True)
        settled = np.where(most.sum(1) == 1, most.argmax(1), -1)
    else:
        middle = np.ma.median(np.ma.masked_less(ratings, 0), axis=1).filled(-1)
        settled = np.where(middle % 1 == 0, middle, -1).astype(int)
    was_read = votes.any(1)
    n_unread = (~was_read).sum()
    n_tied = int((was_read & (settled < 0)).sum())
    notes = []
    if n_unread:
        notes.append(
            f"{n_unread} of {len(votes)} patches were read by nobody: they have no consensus."
        )
    if n_tied:
        notes.append(
            f"{n_tied} of {len(votes)} patches are tied by {how}: a joint reading can settle them."
        )
    return settled, notes


def leave_one_out(ratings: np.ndarray, *, how: str = "majority") -> np.ndarray:
    """(N,R) for each rater of ratings (N,R; -1 missing) the consensus of all the others.

    So nobody is compared with himself. how is that of consensus. Raises ValueError for one rater.

    leave_one_out(np.array([[1, 1, 2]]))  # [[-1, -1, 1]]
    """
    n_raters = np.shape(ratings)[1]
    if n_raters < 2:
        raise ValueError("Leaving one rater out needs two raters: there is one.")
    columns = []
    for rater in range(n_raters):
        settled, _ = consensus(np.delete(ratings, rater, axis=1), how=how)
        columns.append(settled)
    return np.stack(columns, axis=1)


# --- tables of ratings ----------------------------------------------------------------------------


def read_ratings(path: Path | str, *, patches: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """(ratings: patch, rater, reading, score; problems) of a CSV of readings.

    The CSV has a column patch and a column for each rater, or a row for each reading (patch,
    rater, score and, for a second one, reading). patches: the names that may stand in it.
    A reading that cannot be used is a sentence in problems and the rest is kept. Raises ValueError
    where the file is no such table.

    ratings, problems = read_ratings("readings.csv", patches=table["name"])
    """
    name = Path(path).name
    table = _sheet_csv(path, header=None)
    head = [str(column).strip().removeprefix("rater_") for column in table.iloc[0]]
    table = table.iloc[1:].set_axis(head, axis=1)
    # the head is line 1
    table["line"] = table.index + 1
    repeated = _first_repeated(head)
    if repeated is not None:
        raise ValueError(
            f"{name}: two columns are named {repeated!r}, give each reader a name of their own."
        )
    if "patch" not in head:
        raise ValueError(f"{name}: name the column of patch names 'patch', there is none.")
    if not {"rater", "score"} <= set(head):
        table = table.melt(["patch", "line"], var_name="rater", value_name="score")
    if "reading" not in table:
        table = table.assign(reading="1")
    return _check_readings(table, patches, name)


def wide_ratings(
    ratings: pd.DataFrame, *, reading: int = 1, patches: Iterable[str] | None = None
) -> tuple[np.ndarray, list[str], list[str]]:
    """((N,R) scores, -1 missing; raters; patches) of one reading of tidy ratings.

    The patches stand in the order given; without one, by name.
    """
    rows = ratings[ratings.reading == reading]
    table = rows.pivot(index="patch", columns="rater", values="score")
    if patches is not None:
        table = table.reindex(list(patches))
    table = table.fillna(-1).astype(int)
    return table.to_numpy(), list(table.columns), list(table.index)


def disagreements(ratings: np.ndarray, patches: Sequence[str]) -> pd.DataFrame:
    """DataFrame (patch, lowest, highest, spread, scores) of patches on which raters split.

    Of ratings (N,R; -1 missing), the widest split first.
    """
    ratings = np.asarray(ratings)
    # nobody read anything
    if not ratings.size:
        ratings = np.full((len(patches), 1), -1)
    known = np.ma.masked_less(ratings, 0)
    lowest = known.min(1).filled(-1)
    highest = known.max(1).filled(-1)
    table = pd.DataFrame({"patch": list(patches), "lowest": lowest, "highest": highest})
    table["spread"] = table.highest - table.lowest
    table["scores"] = [" ".join(map(scores.score_name, row)) for row in ratings]
    table = table[table.spread > 0]
    return table.sort_values(["spread", "patch"], ascending=[False, True], ignore_index=True)


# --- blinded sheets, out and back -----------------------------------------------------------------


def write_sheets(
    table: pd.DataFrame,
    folder: Path | str,
    *,
    readers: Sequence[str],
    repeats: float = 0.1,
    seed: int = 0,
) -> Path:
    """Path of the folder that now holds a blinded sheet for each reader, and the key to them.

    Each reader's folder has sheet.csv and sheet.html to fill in, and the images under codes, in an
    order of their own. key.csv tells which code is which patch: keep it back.

    table: name, path and, if known, mpp of the patches (patches.read_table).
    folder: a new folder.  readers: their names.
    repeats: this fraction of the patches comes twice, for the agreement of a reader with himself.
    seed: of the orders and codes.

    Raises ValueError where two readers would have one folder, FileExistsError where the folder
    holds sheets already.

    write_sheets(table, "sheets/", readers=["Anna", "Ben"])
    """
    folder = Path(folder)
    names = [reader_folder(reader) for reader in readers]
    if len({name.casefold() for name in names}) < len(names) or "" in names:
        raise ValueError(
            f"Two readers have one name in {', '.join(map(str, readers))}: give each a name of "
            "their own."
        )
    if (folder / "key.csv").exists():
        raise FileExistsError(
            f"{folder} holds sheets already: choose another folder, or the key to them would be "
            "lost."
        )
    # another choice of patches has other codes
    random = np.random.default_rng([seed, int(fingerprint(list(table.name)), 16)])
    n_repeats = round(repeats * len(table))
    n_codes = (len(table) + n_repeats) * len(names)
    codes = iter(random.choice(9 * 10**7, n_codes, replace=False) + 10**7)
    key = []
    for reader, name in zip(readers, names, strict=True):
        order = _shuffled_readings(random, len(table), n_repeats)
        key += _write_sheet(folder / name, str(reader), table, order, codes)
    write_table(folder / "key.csv", pd.DataFrame(key))
    return folder


def gather_sheets(folder: Path | str) -> tuple[pd.DataFrame, list[str]]:
    """(ratings, problems), as of read_ratings, of the filled sheets in a folder of write_sheets."""
    folder = Path(folder)
    key = _sheet_csv(folder / "key.csv")
    parts = []
    problems = []
    for reader, key_of_reader in key.groupby("rater", sort=False):
        name = reader_folder(reader)
        file = folder / name / "sheet.csv"
        if not file.is_file():
            problems.append(f"The sheet of {reader} is missing: put it back as {name}/sheet.csv.")
            continue
        sheet = _sheet_csv(file)
        # the head is line 1
        sheet["line"] = sheet.index + 2
        sheet = sheet.merge(key_of_reader, on="code", how="left")
        for row in sheet[sheet.patch.isna()].itertuples():
            problems.append(
                f"{name}/sheet.csv line {row.line}: the code {row.code!r} was not given to "
                f"{reader}."
            )
        parts.append(sheet.dropna(subset="patch"))
    readings = key.assign(score="", line=0)
    if parts:
        readings = pd.concat(parts)
    ratings, more = _check_readings(readings, key.patch, "sheet.csv")
    return ratings, problems + more


def rounds(folder: Path | str) -> tuple[pd.DataFrame, list[str]]:
    """(ratings, problems) of every folder of sheets below a folder.

    A patch that was read in a later round has the readings of that round only.
    """
    keys = sorted(Path(folder).glob("*/key.csv"), key=_time_written)
    parts = [pd.DataFrame(columns=[*TIDY, "round"])]
    problems = []
    for number, key in enumerate(keys):
        ratings, sentences = gather_sheets(key.parent)
        parts.append(ratings.assign(round=number))
        problems += [f"{key.parent.name}: {sentence}" for sentence in sentences]
    table = pd.concat(parts)
    last = table.groupby("patch")["round"].transform("max")
    return table.loc[table["round"] == last, TIDY].reset_index(drop=True), problems


def collect_readings(
    paths: Iterable[Path | str], *, patches: Iterable[str]
) -> tuple[pd.DataFrame, list[str]]:
    """(ratings, problems), as of read_ratings, of folders of write_sheets and CSVs of readings.

    paths: the folders and CSVs.  patches: the names in the manifest.
    Raises ValueError where a reader stands in two of them.

    ratings, problems = collect_readings(["sheets/", "more.csv"], patches=table["name"])
    """
    patches = set(map(str, patches))
    parts = []
    problems = []
    source_of: dict[str, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            ratings, more = gather_sheets(path)
        else:
            ratings, more = read_ratings(path, patches=patches)
        problems += more
        unknown = ~ratings.patch.isin(patches)
        for name in ratings.patch[unknown].unique():
            problems.append(
                f"{path.name}: the patch {name!r} is not in the manifest, correct its name."
            )
        ratings = ratings[~unknown]
        for reader in ratings.rater.unique():
            other = source_of.setdefault(reader_folder(reader).casefold(), path)
            if other != path:
                raise ValueError(
                    f"Two readers have one name: {reader!r} stands in {other.name} and in "
                    f"{path.name}; give each a name of their own, or one reader one file."
                )
        parts.append(ratings)
    return pd.concat(parts, ignore_index=True), problems


def reader_folder(reader: str) -> str:
    """str, the name of a reader's folder of sheets: letters, digits, - and _ only."""
    signs = []
    for sign in str(reader).strip():
        is_safe = sign.isalnum() or sign in "-_"
        signs.append(sign if is_safe else "_")
    return "".join(signs)


# --- into the manifest ----------------------------------------------------------------------------


def write_to_manifest(
    manifest: Path | str, ratings: pd.DataFrame, *, how: str = "majority"
) -> list[str]:
    """list of str, what was settled and what not, after writing readings into a manifest.csv.

    It gets a column rater_<name> for each reader; score becomes the consensus, and the scores that
    stood there stay as score_given.

    manifest: the file, or the folder that it stands in.
    ratings: patch, rater, reading, score, as collect_readings gives them; first readings count.
    how: "majority" or "median", as of consensus.

    Raises ValueError where the manifest holds other readings by one of these readers.

    write_to_manifest("patches/manifest.csv", ratings)
    """
    file = Path(manifest)
    if file.is_dir():
        file = file / "manifest.csv"
    table, _ = read_table(file)
    written = _sheet_csv(file)
    columns = {name.strip().lower(): name for name in written}
    names = _names_of_paths(written[columns["path"]], table, file.parent)
    merged, notes = merge_readings(table, ratings, how=how)
    merged = merged.set_index("name")
    for rater in sorted(set(ratings.rater)):
        column = columns.get(f"rater_{rater}".lower(), f"rater_{rater}")
        before = np.full(len(written), "", object)
        if column in written:
            before = written[column].to_numpy()
        new = _written_scores(_scores_of(merged[f"rater_{rater}"], names))
        _refuse_clash(before, new, rater, file.name)
        written[column] = np.where(new == "", before, new)

    settled = _scores_of(merged.consensus, names)
    score = columns["score"]
    if "score_given" not in written:
        written["score_given"] = written[score]
    consensus_scores = _written_scores(settled)
    written[score] = np.where(settled >= 0, consensus_scores, written[score].to_numpy(object))
    write_table(file, written)
    return [
        *notes,
        f"{(settled >= 0).sum()} of {len(written)} scores in {file.name} are now the consensus; "
        "score_given keeps the old.",
    ]


def merge_readings(
    table: pd.DataFrame,
    ratings: pd.DataFrame,
    *,
    how: str = "majority",
    settled: Mapping[str, int] | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """(table with a column rater_<name> for each reader and one consensus, -1 missing; sentences).

    settled {patch: score} is a consensus made elsewhere.
    """
    matrix, raters, _ = wide_ratings(ratings, patches=table.name)
    scores_of_patches, notes = consensus(matrix, how=how)
    if settled is not None:
        scores_of_patches = table.name.map(settled).fillna(-1).astype(int).to_numpy()
        n_missing = (scores_of_patches < 0).sum()
        notes = [f"The consensus is as given; it lacks {n_missing} of {len(table)} patches."]
    columns = {f"rater_{rater}": matrix[:, column] for column, rater in enumerate(raters)}
    return table.assign(**columns, consensus=scores_of_patches), notes


# --- helpers: reading -----------------------------------------------------------------------------


def _check_readings(table, patches, file):
    """(ratings, problems): the readings that can be used, and a sentence for each other one.

    table: patch, rater, reading, score, line, all but the line as written; an empty score is no
    reading.
    """
    patches = set(map(str, patches))
    rows = []
    problems = []
    score_before = {}
    for row in table[table.score.str.strip() != ""].itertuples():
        patch = row.patch.strip()
        rater = row.rater.strip()
        reading_of = (patch, rater, row.reading)
        where = f"{file} line {row.line}, {row.rater}"
        try:
            score = scores.parse_score(row.score)
            reading = int(row.reading)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        if patch not in patches:
            problems.append(
                f"{where}: the patch {patch!r} is not in the manifest, correct its name."
            )
        elif reading_of in score_before:
            before = scores.score_name(score_before[reading_of])
            problems.append(
                f"{where}: {patch!r} was scored before ({before} is kept, this is "
                f"{scores.score_name(score)}); a repeat needs another number under 'reading'."
            )
        else:
            score_before[reading_of] = score
            rows.append((patch, rater, reading, score))
    return pd.DataFrame(rows, columns=TIDY), problems


def _first_repeated(names):
    """str, the first of names that stood before it, in capitals or not; None where none did."""
    before = set()
    for name in names:
        if name.casefold() in before:
            return name
        before.add(name.casefold())
    return None


def _time_written(file):
    """int, when a file was last written, in nanoseconds."""
    return file.stat().st_mtime_ns


def _sheet_csv(path, header=0):
    """DataFrame of str of a CSV; a ValueError with the remedy where it is none."""
    try:
        return read_csv(path, header=header)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{Path(path).name} is not a CSV in UTF-8 ({error}): save it as one."
        ) from error


# --- helpers: writing -----------------------------------------------------------------------------


def _shuffled_readings(random, n, n_repeats):
    """list of (row, reading): all n patches shuffled, then some of them a second time."""
    first = [(row, 1) for row in random.permutation(n)]
    second = [(row, 2) for row in random.permutation(n)[:n_repeats]]
    return first + second


def _write_sheet(folder, reader, table, order, codes):
    """list of dict (code, patch, rater, reading) of one reader's sheet, after writing it."""
    make_folder(folder / "images")
    key = []
    rows = []
    for row, reading in order:
        code = str(next(codes))
        source = Path(table.path.iloc[row])
        image = f"images/{code}{source.suffix}"
        # a copy under a code: a BCI file name ends with its score, and a link would tell it
        shutil.copyfile(source, folder / image)
        mpp = None
        if "mpp" in table and table.mpp.iloc[row] > 0:
            mpp = float(table.mpp.iloc[row])
        rows.append({"code": code, "image": image, "mpp": mpp})
        patch = table.name.iloc[row]
        key.append({"code": code, "patch": patch, "rater": reader, "reading": reading})
    sheet = pd.DataFrame(rows)[["code", "image"]].assign(score="", remark="")
    write_table(folder / "sheet.csv", sheet)
    # a fresh key for the page: pages of one disk share one memory
    content = {"key": secrets.token_hex(8), "reader": reader, "rows": rows}
    content = json.dumps(content).replace("<", "\\u003c")
    page = PAGE.read_text(encoding="utf-8").replace("__SHEET__", content)
    write_text(folder / "sheet.html", page)
    return key


def _names_of_paths(paths, table, root):
    """list of str, the name in table of each path of a manifest in root; None where it has none."""
    name_of = dict(zip(map(os.path.realpath, table.path), table.name, strict=True))
    files = [root / path.strip().replace("\\", "/") for path in paths]
    return [name_of.get(os.path.realpath(file)) for file in files]


def _scores_of(column, names):
    """(N,) int, the scores of these names in a column indexed by name; -1 where there is none."""
    return column.reindex(names).fillna(-1).astype(int).to_numpy()


def _written_scores(values):
    """(N,) str, scores (N,) as they are written; "" for -1."""
    written = np.array(["", *scores.SCORES], object)
    return written[values + 1]


def _refuse_clash(before, new, rater, file):
    """Raises ValueError where a rater's new readings (N,) str are not those that stood there."""
    clashes = 0
    for old_score, new_score in zip(before, new, strict=True):
        both = old_score != "" and new_score != ""
        if both and scores.parse_score(old_score) != scores.parse_score(new_score):
            clashes += 1
    if clashes:
        raise ValueError(
            f"{file} holds other readings by {rater!r} of {clashes} patches: rename the reader, or "
            "clear that column."
        )
