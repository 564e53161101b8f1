"""A study's patches, read, checked, split and decoded: what every notebook starts from."""

from dataclasses import dataclass

from her2lib.scores import SCORES

RANDOM = ("The sets were drawn patch by patch, as the study asks (split = random): patches of one slide or patient stand on both "
          "sides, so results look better than they would on new slides.")


@dataclass(frozen=True)
class Data:
    """Row i of table is patch i of patches; notes are sentences for page one; problems names files and remedies."""

    table: object
    patches: object
    notes: list
    problems: object


def prepared(study, *, side_px, split="official", progress=True):
    """Data of a study at one side length in pixels; phantoms are written first when the study asks for them."""
    import pandas as pd

    from her2lib import store

    tables, problems = _read(study, progress)
    tables, left_out = _only(tables, study.data["scores"])
    shares = {"seed": study.data["split_seed"], "val": study.data["val"], "test": study.data["test"]}
    table, notes = _split(tables[0], split, **shares)
    table = pd.concat([table, *(more.assign(set="external") for more in tables[1:])], ignore_index=True)
    place = {"side_px": side_px, "folder": study.store}
    images = store.open_store(table, progress=progress, skip_bad=study.data["skip_bad"], **place)
    lost = store.lost(table, **place).rename(columns={"name": "file"}).assign(severity="error")
    table = table[~table["name"].isin(lost["file"])].reset_index(drop=True)
    return Data(table, images, notes + left_out, pd.concat([*problems, lost], ignore_index=True))


def _read(study, progress):
    """(tables, problems) of the cohort and, where there is one, of the external set."""
    from her2lib import patches, phantom

    if study.data["source"] == "phantom":
        phantom.write(study.cohort_path, progress=progress, **study.phantom)
    found = []
    for place in filter(None, (study.cohort_path, study.external_path)):
        found.append(patches.read(place, cache=study.store, progress=progress))
        if not study.data["skip_bad"]:
            patches.stop_on_errors(found[-1][1], path=place)
    return zip(*found, strict=True)


def _only(tables, wanted):
    """(tables, sentences): only patches of the scores a study asks for; none asked for means all."""
    if not wanted:
        return tables, []
    kept = [table[table["score"].isin([SCORES.index(score) for score in wanted])].reset_index(drop=True) for table in tables]
    lost = sum(map(len, tables)) - sum(map(len, kept))
    return kept, [f"This study asks for the scores {', '.join(wanted)} only: {lost} patches of other scores, or of none, are left out."]


def _split(table, split, **shares):
    """(table, notes): given sets kept (official), ignored (grouped: whole slides), or slides ignored as well (random)."""
    from her2lib import patches

    free = table if split == "official" else table.assign(set=table["set"].where(table["set"] == "external", ""))
    if split != "random":
        return patches.split(free, **shares)
    drawn, notes = patches.split(free.assign(slide="", patient=""), **shares)
    return table.assign(set=drawn["set"]), [RANDOM, *(note for note in notes if "slide is known" not in note)]
