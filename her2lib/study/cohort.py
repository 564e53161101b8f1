"""A study's patches, read, checked, split and decoded: what every notebook starts from."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.data import patches as patches_
from her2lib.data import splits
from her2lib.data.common_field import bring_to_common_field
from her2lib.data.images import probe_files
from her2lib.data.patches import Source
from her2lib.data.reading import Cohort
from her2lib.files import DataError, fingerprint, read_json, write_json
from her2lib.intake.text_tables import read_text_table
from her2lib.phantoms import dataset
from her2lib.scores import SCORES, is_missing, parse_score
from her2lib.study.config import Study
from her2lib.study.external_set import keep_apart
from her2lib.study.fingerprints import code_fingerprint

RECOVER_PX = 512  # the longest borders that are compared; shorter ones link fewer tiles
# The first of these that is there names the patch of a row of re-read scores.
PATCH_COLUMNS = ("patch", "path", "name")
EXTERNAL_REMEDY = (
    "This is the external set, which no flag speaks of: bring it as a manifest.csv (path,score)."
)
RANDOM = (
    "The sets were drawn patch by patch, as the study asks (split = random): patches of one slide "
    "or patient stand on both sides, so results look better than they would on new slides."
)


def prepare_cohort(
    study: Study, *, side_px: int, split: str = "official", progress: bool = True
) -> Cohort:
    """Cohort of a study, patches (N,3,side_px,side_px) uint8; phantoms are written first if asked.

    split is official (sets as they came), grouped (whole slides drawn anew) or random (patch by
    patch). The external set stands behind the cohort, as set "external". Raises DataError for
    files that cannot be used, unless the study says skip_bad: then they are left out and named in
    problems. Example: prepare_cohort(load_study("smoke"), side_px=64).table
    """
    from her2lib.data import store  # brings torch, 3 s, which reading a table does without

    sources = read_sources(study, progress=progress)
    tables = [source.table for source in sources]
    problems = [source.problems for source in sources]
    names = set().union(*[table["name"] for table in tables])
    tables, left_out = _keep_scores(tables, study.data["scores"])
    external = [table.assign(set="external") for table in tables[1:]]
    whole = pd.concat([tables[0], *external], ignore_index=True)
    table, notes = _split_cohort(study, tables[0], whole, split=split, progress=progress)

    # read again only now: a changed score must not move a patch to another set
    table = pd.concat([table, whole.iloc[len(table) :]], ignore_index=True)
    table = _with_reread_scores(study, table, names)
    (table,), left_out_after = _keep_scores([table], study.data["scores"])

    # a cell has one size to a network, whatever each laboratory's field was
    table, field_notes = bring_to_common_field(table, cache=study.store)
    # a patch that could not be decoded has no row in the store, so it loses its row here as well
    patches = store.open_store(
        table,
        side_px=side_px,
        folder=study.store,
        progress=progress,
        skip_bad=study.data["skip_bad"],
    )
    lost = store.lost_patches(table, side_px=side_px, folder=study.store)
    lost = lost.rename(columns={"name": "file"}).assign(severity="error", kind="undecodable")
    table = table[~table["name"].isin(lost["file"])].reset_index(drop=True)
    problems = pd.concat([*problems, lost], ignore_index=True)
    notes += [*left_out, *left_out_after, *reading_notes(study, sources), *field_notes]
    return Cohort(table, patches, notes, problems)


def read_cohort(study: Study, *, progress: bool = True) -> tuple[tuple, tuple]:
    """(tables, problems): of the cohort and, if there is one, of the external set; scores as given.

    Nothing is split and no pixel is decoded. Raises DataError for files that cannot be used,
    unless the study says skip_bad.
    """
    sources = read_sources(study, progress=progress)
    return tuple(source.table for source in sources), tuple(source.problems for source in sources)


def read_sources(
    study: Study, *, open_images: bool = True, progress: bool = True
) -> tuple[Source, ...]:
    """Sources of the cohort and, if there is one, of the external set, read as the study states.

    open_images: False looks at names and tables alone, and writes nothing. Raises DataError for
    files that cannot be used, unless the study says skip_bad, and for data that could be read in
    two ways.
    """
    if study.data["source"] == "phantom":
        dataset.write_phantoms(study.cohort_path, progress=progress, **study.phantom)
    stated = study.choices
    # what is stated of one folder's layout and scale says nothing of another folder
    elsewhere = replace(stated, layout="", score_from="", patient_from="", set_from="", mpp=None)
    if study.data["source"] == "phantom":
        # the kit's own fields need no gate
        stated = replace(stated, any_field=True)
        if not study.data["external"]:
            elsewhere = replace(elsewhere, any_field=True)
    sources: list[Source] = []
    paths = [path for path in (study.cohort_path, study.external_path) if path is not None]
    cache = None
    if open_images:
        cache = study.store
    for path, choices in zip(paths, (stated, elsewhere), strict=False):
        try:
            source = patches_.read_source(
                path, choices=choices, open_images=open_images, cache=cache, progress=progress
            )
        except DataError as error:
            if not sources or "--" not in str(error):
                raise
            raise DataError(f"{error} {EXTERNAL_REMEDY}") from error
        if not study.data["skip_bad"]:
            patches_.stop_on_errors(source.problems, path=path)
        sources.append(source)
    if len(sources) == 1:
        return tuple(sources)
    return keep_apart(
        *sources, skip_bad=study.data["skip_bad"], cache=cache, open_images=open_images
    )


def reading_notes(study: Study, sources: tuple[Source, ...]) -> list[str]:
    """list of sentences for page one: as what the data were read, and what was left aside.

    None for phantoms, which nobody brought.
    """
    notes = []
    if study.data["source"] != "phantom":
        notes += sources[0].sentences
    if study.data["external"]:
        notes += [f"External set: {sentence}" for sentence in sources[-1].sentences]
        if not (sources[-1].table["score"] >= 0).any():
            notes.append("External set: no patch has a score, so nothing is tested on it.")
    return notes


def recovered_groups(study: Study, table: pd.DataFrame, *, progress: bool = True) -> np.ndarray:
    """(N,) str, the slide group of every patch of table, recovered from RECOVER_PX px borders.

    Recovered once and kept beside the stores; a patch that cannot be decoded stands alone.
    """
    from her2lib.data import slide_groups, store

    sizes = [
        (name, os.path.getsize(path), os.stat(path).st_mtime_ns)
        for name, path in zip(table["name"], table["path"], strict=True)
    ]
    key = fingerprint(sizes, code_fingerprint("data.slide_groups"))
    file = study.store / f"groups-{key}.json"
    if not file.is_file():
        patches = store.open_store(
            table,
            side_px=_recover_px(table["path"], cache=study.store),
            folder=study.store,
            progress=progress,
            skip_bad=study.data["skip_bad"],
        )
        groups = slide_groups.recover_groups(patches.images)
        write_json(file, dict(zip(patches.name.tolist(), groups.tolist(), strict=True)))
    group_of = read_json(file)
    return np.array([group_of.get(name, name) for name in table["name"]], object)


def _recover_px(paths: pd.Series, *, cache: Path) -> int:
    """int, RECOVER_PX, or the shortest side of all images where that is less."""
    sides = probe_files(paths, cache=cache)["side_px"]
    return min(RECOVER_PX, *(min(width_height) for width_height in sides))


def _with_reread_scores(study, table, names):
    """table with the scores of the study's CSV of re-read patches (patch, reread), if any."""
    if not study.reread_path:
        return table
    # a score for a patch that is not there is a slip that would go unnoticed for ever
    reread_table = read_text_table(study.reread_path, needed=(PATCH_COLUMNS, "reread"))
    reread = reread_table.cells
    patch_column = next(column for column in PATCH_COLUMNS if column in reread)
    reread = reread.assign(patch=reread[patch_column])
    source = f"{study.reread_path.name} (reread under [data])"
    wrong = reread[~reread["patch"].isin(names) | reread["patch"].duplicated()]
    if len(wrong):
        patch = wrong["patch"].iloc[0]
        raise DataError(
            f"{source}: the patch {patch!r} is unknown or stands there twice: correct that row."
            f"{_names_alike(patch, names)}"
        )
    scores = [_reread_score(study, reread_table, row) for row in range(len(reread))]
    new_score = pd.Series(scores, index=reread["patch"]).dropna()
    score = table["name"].map(new_score).fillna(table["score"])
    return table.assign(score=score.astype(int))


def _names_alike(patch, names):
    """str, the patches that are called alike but for folder and ending; "" for none."""
    stem = Path(patch.replace("\\", "/")).stem
    alike = sorted(name for name in names if Path(name).stem == stem and name != patch)
    if not alike:
        return ""
    return f" Perhaps {' or '.join(map(repr, alike[:3]))} is meant."


def _reread_score(study, reread_table, row):
    """int 0..3 of a row of the CSV of re-read patches, None where nothing was read."""
    text = reread_table.cells["reread"][row]
    if is_missing(text):
        return None
    try:
        return parse_score(text, study.choices.score_words)
    except ValueError as error:
        raise DataError(f"{reread_table.where(row, 'reread')}: {error}") from error


def _keep_scores(tables, wanted):
    """(tables, sentences): only patches of the scores that a study asks for."""
    if not wanted:  # nothing asked for means every score
        return tables, []
    scores = [SCORES.index(score) for score in wanted]
    of_wanted = [table[table["score"].isin(scores)].reset_index(drop=True) for table in tables]
    n_left_out = sum(map(len, tables)) - sum(map(len, of_wanted))
    if n_left_out == 0:
        return of_wanted, []
    return of_wanted, [
        f"This study asks for the scores {', '.join(wanted)} only: {n_left_out} patches of other "
        "scores, or of none, are left out."
    ]


# --- splitting ----------------------------------------------------------------------------------


def _split_cohort(study, table, whole, *, split, progress):
    """(table with set filled, notes); the sets of the external patches stay."""
    fractions = {
        "seed": study.data["split_seed"],
        "val": study.data["val"],
        "test": study.data["test"],
    }
    if split == "official":
        return splits.split_table(table, **fractions)
    undivided = table.assign(set=table["set"].where(table["set"] == "external", ""))
    if split == "random":
        return _split_patch_by_patch(table, undivided, **fractions)
    unknown = (table["slide"] == "") & (table["patient"] == "")
    if not unknown.any():
        return splits.split_table(undivided, **fractions)
    # of all patches, external ones too, as 09_label_review asks for them: recovered once for both
    groups = recovered_groups(study, whole, progress=progress)[: len(table)]
    return splits.split_by_recovered_groups(undivided, groups, **fractions)


def _split_patch_by_patch(table, undivided, **fractions):
    """(table with set filled, notes): slides are cut, and the first note says what that means."""
    drawn, notes = splits.split_table(undivided.assign(slide="", patient=""), **fractions)
    notes = [note for note in notes if "slide is known" not in note]
    return table.assign(set=drawn["set"]), [RANDOM, *notes]
