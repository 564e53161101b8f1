"""A study's patches, read, checked, split and decoded: what every notebook starts from."""

import os
from dataclasses import dataclass

import numpy as np
import pandas as pd

from her2lib import scores
from her2lib.data import layouts, splits
from her2lib.data import patches as patches_
from her2lib.data.images import DataError, probe_files
from her2lib.files import fingerprint, read_json, write_json
from her2lib.phantoms import dataset
from her2lib.study.fingerprints import code_fingerprint

RECOVER_PX = 512  # the longest borders that are compared; shorter ones link fewer tiles
RANDOM = (
    "The sets were drawn patch by patch, as the study asks (split = random): patches of one slide or patient stand on both "
    "sides, so results look better than they would on new slides."
)


@dataclass(frozen=True)
class Cohort:
    """Row i of table is patch i of patches; notes are sentences for page one; problems names files and remedies."""

    table: object
    patches: object
    notes: list
    problems: object


def prepare_cohort(study, *, side_px, split="official", progress=True):
    """Data of a study at one side length in pixels; phantoms are written first when the study asks for them."""
    from her2lib.data import store  # brings torch, 3 s, which reading a table does without

    tables, problems = read_cohort(study, progress=progress)
    known = {name for one in tables for name in one["name"]}
    tables, left_out = _only(tables, study.data["scores"])
    shares = {
        "seed": study.data["split_seed"],
        "val": study.data["val"],
        "test": study.data["test"],
    }
    whole = pd.concat(
        [tables[0], *(more.assign(set="external") for more in tables[1:])], ignore_index=True
    )
    place = {"side_px": side_px, "folder": study.store}
    table, notes = _split(
        tables[0],
        split,
        recover=lambda: recovered_groups(study, whole, progress=progress)[: len(tables[0])],
        **shares,
    )
    table = _reread(
        study, pd.concat([table, whole.iloc[len(table) :]], ignore_index=True), known
    )  # the split stays
    (table,), also_out = _only([table], study.data["scores"])
    images = store.open_store(table, progress=progress, skip_bad=study.data["skip_bad"], **place)
    lost = (
        store.lost_patches(table, **place).rename(columns={"name": "file"}).assign(severity="error")
    )
    table = table[~table["name"].isin(lost["file"])].reset_index(drop=True)
    return Cohort(
        table, images, notes + left_out + also_out, pd.concat([*problems, lost], ignore_index=True)
    )


def recovered_groups(study, table, *, progress=True):
    """(N,) str, the slide group of every patch of table, recovered once from patches of RECOVER_PX and kept beside the stores."""
    from her2lib.data import slide_groups, store

    side_px = min(
        RECOVER_PX,
        *(min(sides) for sides in probe_files(table["path"], cache=study.store)["side_px"]),
    )
    images = store.open_store(
        table,
        side_px=side_px,
        folder=study.store,
        progress=progress,
        skip_bad=study.data["skip_bad"],
    )
    files = [
        (name, os.path.getsize(path), os.stat(path).st_mtime_ns)
        for name, path in zip(table["name"], table["path"], strict=True)
    ]
    file = study.store / f"groups-{fingerprint(files, code_fingerprint('data.slide_groups'))}.json"
    if not file.is_file():
        write_json(
            file,
            dict(
                zip(
                    images.name.tolist(),
                    slide_groups.recover_groups(images.images).tolist(),
                    strict=True,
                )
            ),
        )
    found = read_json(file)
    return np.array(
        [found.get(name, name) for name in table["name"]], object
    )  # what cannot be decoded stands alone


def read_cohort(study, *, progress=True):
    """(tables, problems) of the cohort and, where there is one, of the external set, with the scores as given."""
    if study.data["source"] == "phantom":
        dataset.write_phantoms(study.cohort_path, progress=progress, **study.phantom)
    found = []
    for place in filter(None, (study.cohort_path, study.external_path)):
        found.append(patches_.read_table(place, cache=study.store, progress=progress))
        if not study.data["skip_bad"]:
            patches_.stop_on_errors(found[-1][1], path=place)
    return tuple(zip(*found, strict=True))


def _reread(study, table, known):
    """table with the scores of the study's CSV of re-read patches (patch, reread) where it has them."""
    if not study.reread_path:
        return table
    again = layouts.read_csv(study.reread_path)
    where = f"{study.reread_path.name} (reread under [data])"
    if not {"patch", "reread"} <= set(again):
        raise DataError(f"{where} needs the columns patch and reread.")
    if len(wrong := again[~again["patch"].isin(known) | again["patch"].duplicated()]):
        raise DataError(
            f"{where}: the patch {wrong['patch'].iloc[0]!r} is unknown or stands there twice: correct that row."
        )
    score = table["name"].map(again.set_index("patch")["reread"].map(scores.parse_score))
    return table.assign(score=score.fillna(table["score"]).astype(int))


def _only(tables, wanted):
    """(tables, sentences): only patches of the scores a study asks for; none asked for means all."""
    if not wanted:
        return tables, []
    kept = [
        table[table["score"].isin([scores.SCORES.index(score) for score in wanted])].reset_index(
            drop=True
        )
        for table in tables
    ]
    if not (lost := sum(map(len, tables)) - sum(map(len, kept))):
        return kept, []
    return kept, [
        f"This study asks for the scores {', '.join(wanted)} only: {lost} patches of other scores, or of none, are left out."
    ]


def _split(table, split, *, recover, **shares):
    """(table, notes): given sets kept (official), ignored (grouped: whole slides, or recovered groups), or slides as well (random)."""
    free = (
        table
        if split == "official"
        else table.assign(set=table["set"].where(table["set"] == "external", ""))
    )
    if split == "grouped" and ((table["slide"] == "") & (table["patient"] == "")).any():
        return splits.split_by_recovered_groups(free, recover(), **shares)
    if split != "random":
        return splits.split_table(free, **shares)
    drawn, notes = splits.split_table(free.assign(slide="", patient=""), **shares)
    return table.assign(set=drawn["set"]), [
        RANDOM,
        *(note for note in notes if "slide is known" not in note),
    ]
