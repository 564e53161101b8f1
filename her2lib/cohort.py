"""A study's patches, read, checked, split and decoded: what every notebook starts from."""

from dataclasses import dataclass

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

    from her2lib import patches, phantom, store

    asked, skip_bad = study.data, study.data["skip_bad"]
    if asked["source"] == "phantom":
        phantom.write(study.cohort_path, progress=progress, **study.phantom)
    places = [place for place in (study.cohort_path, study.external_path) if place]
    tables, problems = zip(*(patches.read(place, cache=study.store, progress=progress) for place in places), strict=True)
    for place, found in zip(places, problems, strict=True):
        if not skip_bad:
            patches.stop_on_errors(found, path=place)
    table, notes = _split(tables[0], split, seed=asked["split_seed"], val=asked["val"], test=asked["test"])
    table = pd.concat([table, *(more.assign(set="external") for more in tables[1:])], ignore_index=True)
    images = store.open_store(table, side_px=side_px, folder=study.store, progress=progress, skip_bad=skip_bad)
    lost = store.lost(table, side_px=side_px, folder=study.store)
    table = table[~table["name"].isin(lost["name"])].reset_index(drop=True)
    problems = pd.concat([*problems, lost.rename(columns={"name": "file"}).assign(severity="error")], ignore_index=True)
    return Data(table, images, notes, problems)


def _split(table, split, **shares):
    """(table, notes): given sets kept (official), ignored (grouped: whole slides), or slides ignored as well (random)."""
    from her2lib import patches

    free = table if split == "official" else table.assign(set=table["set"].where(table["set"] == "external", ""))
    if split != "random":
        return patches.split(free, **shares)
    drawn, notes = patches.split(free.assign(slide="", patient=""), **shares)
    return table.assign(set=drawn["set"]), [RANDOM, *(note for note in notes if "slide is known" not in note)]
