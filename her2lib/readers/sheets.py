"""Readers: blinded sheets out, readings in, consensus into the manifest; and the ledger of looks at the external set."""

import json
import os
import secrets
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.data.layouts import read_csv
from her2lib.data.patches import read_table
from her2lib.files import fingerprint, make_folder, write_table, write_text
from her2lib.stats.agreement import rating_counts as votes_of

TIDY = ["patch", "rater", "reading", "score"]


def consensus(ratings, *, how="majority"):
    """((N,) scores, -1 unsettled; sentences): the majority or the median of ratings (N,R; -1 missing), nothing where they tie."""
    if how not in ("majority", "median"):
        raise ValueError(
            f"A consensus is made by majority or median, not {how!r}; one made elsewhere goes to merge(given=…)."
        )
    votes = votes_of(ratings)
    if how == "majority":
        most = votes == votes.max(1, keepdims=True)
        settled = np.where(most.sum(1) == 1, most.argmax(1), -1)
    else:
        middle = np.ma.median(np.ma.masked_less(ratings, 0), axis=1).filled(-1)
        settled = np.where(middle % 1 == 0, middle, -1).astype(int)
    read = votes.any(1)
    tied = int((read & (settled < 0)).sum())
    notes = {
        f"{(~read).sum()} of {len(votes)} patches were read by nobody: they have no consensus.": not read.all(),
        f"{tied} of {len(votes)} patches are tied by {how}: a joint reading can settle them.": tied,
    }
    return settled, [note for note, holds in notes.items() if holds]


def leave_one_out(ratings, *, how="majority"):
    """(N,R) for each rater the consensus of all the others, so that nobody is compared with himself."""
    if np.shape(ratings)[1] < 2:
        raise ValueError("Leaving one rater out needs two raters: there is one.")
    return np.stack(
        [consensus(np.delete(ratings, r, axis=1), how=how)[0] for r in range(np.shape(ratings)[1])],
        axis=1,
    )


def read_ratings(path, *, patches):
    """(ratings: patch, rater, reading, score; problems: sentences) of a CSV with a column per rater, or a row per reading."""
    table = _sheet_csv(path, header=None)
    head = [str(column).strip().removeprefix("rater_") for column in table.iloc[0]]
    table = table.iloc[1:].set_axis(head, axis=1).assign(line=lambda t: t.index + 1)
    twice = [
        name
        for i, name in enumerate(head)
        if name.casefold() in {other.casefold() for other in head[:i]}
    ]
    if "patch" not in head or twice:
        raise ValueError(
            f"{Path(path).name}: "
            + (
                f"two columns are named {twice[0]!r}, give each reader a name of their own."
                if twice
                else "name the column of patch names 'patch', there is none."
            )
        )
    if not {"rater", "score"} <= set(head):
        table = table.melt(["patch", "line"], var_name="rater", value_name="score")
    return _checked(
        table if "reading" in table else table.assign(reading="1"), patches, Path(path).name
    )


def wide_ratings(ratings, *, reading=1, patches=None):
    """((N,R) scores, -1 missing; raters; patches) of one reading of tidy ratings; patches in the order given."""
    table = ratings[ratings.reading == reading].pivot(
        index="patch", columns="rater", values="score"
    )
    table = (table if patches is None else table.reindex(list(patches))).fillna(-1).astype(int)
    return table.to_numpy(), list(table.columns), list(table.index)


def disagreements(ratings, patches):
    """DataFrame for galleries: patches on which ratings (N,R; -1 missing) split: lowest, highest, spread; widest first."""
    ratings = (
        np.asarray(ratings) if np.size(ratings) else np.full((len(patches), 1), -1)
    )  # nobody read anything
    known = np.ma.masked_less(ratings, 0)
    table = pd.DataFrame(
        {
            "patch": list(patches),
            "lowest": known.min(1).filled(-1),
            "highest": known.max(1).filled(-1),
        }
    )
    table["spread"] = table.highest - table.lowest
    table["scores"] = [" ".join(map(scores.score_name, row)) for row in ratings]
    return table[table.spread > 0].sort_values(
        ["spread", "patch"], ascending=[False, True], ignore_index=True
    )


def write_sheets(table, folder, *, readers, repeats=0.1, seed=0):
    """Path of a folder with a blinded sheet per reader (sheet.csv, images under codes, own order, repeats) and the key.csv."""
    folder, key, places = Path(folder), [], [_folder(reader) for reader in readers]
    random = np.random.default_rng(
        [seed, int(fingerprint(list(table.name)), 16)]
    )  # codes of another choice of patches are other codes
    if len({place.casefold() for place in places}) < len(places) or "" in places:
        raise ValueError(
            f"Two readers have one name in {', '.join(map(str, readers))}: give each a name of their own."
        )
    if (folder / "key.csv").exists():
        raise FileExistsError(
            f"{folder} holds sheets already: choose another folder, or the key to them would be lost."
        )
    again, page = (
        round(repeats * len(table)),
        (Path(__file__).parent / "sheet.html").read_text(encoding="utf-8"),
    )
    codes = iter(
        random.choice(9 * 10**7, (len(table) + again) * len(places), replace=False) + 10**7
    )
    for reader, place in zip(readers, places, strict=True):
        order = [(i, 1) for i in random.permutation(len(table))] + [
            (i, 2) for i in random.permutation(len(table))[:again]
        ]
        make_folder(folder / place / "images")
        for (
            i,
            reading,
        ) in (
            order
        ):  # a copy under a code: a BCI file name ends with its score, and a link would tell it
            code, source = str(next(codes)), Path(table.path.iloc[i])
            image = f"images/{code}{source.suffix}"
            shutil.copyfile(source, folder / place / image)
            mpp = float(table.mpp.iloc[i]) if "mpp" in table and table.mpp.iloc[i] > 0 else None
            key.append(
                {
                    "code": code,
                    "image": image,
                    "patch": table.name.iloc[i],
                    "rater": str(reader),
                    "reading": reading,
                    "mpp": mpp,
                }
            )
        rows = [
            {name: row[name] for name in ("code", "image", "mpp")} for row in key[-len(order) :]
        ]
        write_table(
            folder / place / "sheet.csv",
            pd.DataFrame(rows)[["code", "image"]].assign(score="", remark=""),
        )
        held = json.dumps(
            {"key": secrets.token_hex(8), "reader": str(reader), "rows": rows}
        ).replace("<", "\\u003c")
        write_text(
            folder / place / "sheet.html", page.replace("__SHEET__", held)
        )  # a fresh key: pages of a disk share one memory
    write_table(folder / "key.csv", pd.DataFrame(key)[["code", "patch", "rater", "reading"]])
    return folder


def gather_sheets(folder):
    """(ratings, problems) as of read_ratings, from the filled sheets and the key.csv of a folder made by sheets()."""
    key, parts, problems = _sheet_csv(Path(folder) / "key.csv"), [], []
    for reader, own in key.groupby("rater", sort=False):
        file = Path(folder) / _folder(reader) / "sheet.csv"
        if not file.is_file():
            problems.append(
                f"The sheet of {reader} is missing: put it back as {_folder(reader)}/sheet.csv."
            )
            continue
        sheet = (
            _sheet_csv(file).assign(line=lambda t: t.index + 2).merge(own, on="code", how="left")
        )
        problems += [
            f"{_folder(reader)}/sheet.csv line {row.line}: the code {row.code!r} was not given to {reader}."
            for row in sheet[sheet.patch.isna()].itertuples()
        ]
        parts.append(sheet.dropna(subset="patch"))
    ratings, more = _checked(
        pd.concat(parts) if parts else key.assign(score="", line=0), set(key.patch), "sheet.csv"
    )
    return ratings, problems + more


def rounds(folder):
    """(ratings, problems) of every folder of sheets below a folder; a patch read in a later round has the readings of that round only."""
    places = sorted(
        (key.parent for key in Path(folder).glob("*/key.csv")),
        key=lambda place: os.stat(place / "key.csv").st_mtime_ns,
    )
    found = [gather_sheets(place) for place in places]
    table = pd.concat(
        [
            pd.DataFrame(columns=[*TIDY, "round"]),
            *(one.assign(round=k) for k, (one, _) in enumerate(found)),
        ]
    )
    last = table.groupby("patch")["round"].transform("max")
    problems = [
        f"{place.name}: {sentence}"
        for place, (_, said) in zip(places, found, strict=True)
        for sentence in said
    ]
    return table.loc[table["round"] == last, TIDY].reset_index(drop=True), problems


def collect_readings(places, *, patches):
    """(ratings, problems) of several folders of sheets or CSVs of readings; a reader may stand in one of them only."""
    parts, problems, whose = [], [], {}
    for place in map(Path, places):
        one, said = gather_sheets(place) if place.is_dir() else read_ratings(place, patches=patches)
        strange = ~one.patch.isin(set(map(str, patches)))
        said += [
            f"{place.name}: the patch {name!r} is not in the manifest, correct its name."
            for name in one.patch[strange].unique()
        ]
        one = one[~strange]
        for reader in one.rater.unique():
            if (other := whose.setdefault(_folder(reader).casefold(), place)) != place:
                raise ValueError(
                    f"Two readers have one name: {reader!r} stands in {other.name} and in {place.name}; "
                    f"give each a name of their own, or one reader one file."
                )
        parts, problems = [*parts, one], [*problems, *said]
    return pd.concat(parts, ignore_index=True), problems


def write_to_manifest(manifest, ratings, *, how="majority"):
    """Sentences after writing readings and their consensus into a manifest.csv; the scores that stood there stay as score_given."""
    file = Path(manifest) / "manifest.csv" if Path(manifest).is_dir() else Path(manifest)
    table, _ = read_table(file)
    written = _sheet_csv(file)
    column = {name.strip().lower(): name for name in written}
    place = pd.Series(table.name.to_numpy(), [os.path.realpath(path) for path in table.path])
    name = [
        place.get(os.path.realpath(file.parent / path.strip().replace("\\", "/")))
        for path in written[column["path"]]
    ]
    merged, notes = merge_readings(table, ratings, how=how)
    merged = merged.set_index("name")
    for rater in sorted(set(ratings.rater)):
        new = (
            merged[f"rater_{rater}"]
            .reindex(name)
            .fillna(-1)
            .astype(int)
            .map(lambda score: scores.SCORES[score] if score >= 0 else "")
        )
        old = written.get(
            column.get(f"rater_{rater}".lower()), pd.Series("", written.index)
        ).to_numpy()
        if clash := sum(
            a != "" and b != "" and scores.parse_score(a) != scores.parse_score(b)
            for a, b in zip(old, new, strict=True)
        ):
            raise ValueError(
                f"{file.name} holds other readings by {rater!r} of {clash} patches: rename the reader, or clear that column."
            )
        written[column.get(f"rater_{rater}".lower(), f"rater_{rater}")] = np.where(
            new == "", old, new
        )
    settled = merged.consensus.reindex(name).fillna(-1).astype(int).to_numpy()
    if "score_given" not in written:
        written["score_given"] = written[column["score"]]
    written[column["score"]] = [
        scores.SCORES[s] if s >= 0 else old
        for s, old in zip(settled, written[column["score"]], strict=True)
    ]
    write_table(file, written)
    return [
        *notes,
        f"{(settled >= 0).sum()} of {len(written)} scores in {file.name} are now the consensus; score_given keeps the old.",
    ]


def merge_readings(table, ratings, *, how="majority", given=None):
    """(table with rater_<name> and consensus columns, sentences); given {patch: score} is a consensus made elsewhere."""
    matrix, raters, _ = wide_ratings(ratings, patches=table.name)
    settled, notes = consensus(matrix, how=how)
    if given is not None:
        settled = table.name.map(given).fillna(-1).astype(int).to_numpy()
        notes = [
            f"The consensus is as given; it lacks {(settled < 0).sum()} of {len(table)} patches."
        ]
    return table.assign(
        **{f"rater_{rater}": matrix[:, r] for r, rater in enumerate(raters)}, consensus=settled
    ), notes


def _checked(table, patches, file):
    rows, problems, seen, patches = [], [], {}, set(map(str, patches))
    for row in table[table.score.str.strip() != ""].itertuples():  # an empty cell was not read
        spot, where = (
            (row.patch.strip(), row.rater.strip(), row.reading),
            f"{file} line {row.line}, {row.rater}",
        )
        try:
            score, reading = scores.parse_score(row.score), int(row.reading)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        if spot[0] not in patches:
            problems.append(
                f"{where}: the patch {spot[0]!r} is not in the manifest, correct its name."
            )
        elif spot in seen:
            problems.append(
                f"{where}: {spot[0]!r} was scored before ({scores.score_name(seen[spot])} is kept, this is "
                f"{scores.score_name(score)}); a repeat needs another number under 'reading'."
            )
        else:
            seen[spot] = score
            rows.append((*spot[:2], reading, score))
    return pd.DataFrame(rows, columns=TIDY), problems


def _sheet_csv(path, header=0):
    try:
        return read_csv(path, header=header)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{Path(path).name} is not a CSV in UTF-8 ({error}): save it as one."
        ) from error


def _folder(reader):
    return "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in str(reader).strip())
