"""The external set beside the patches of a study: no patch in both, no name of both."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from her2lib.data import judging
from her2lib.data.images import probe_files
from her2lib.data.patches import Source
from her2lib.files import DataError
from her2lib.intake.layout_sentences import count_text

PREFIX = "external/"


def keep_apart(
    cohort: Source,
    external: Source,
    *,
    skip_bad: bool = False,
    cache: Path | str | None = None,
    open_images: bool = True,
) -> tuple[Source, Source]:
    """(cohort, external): no file of the external set is left in the cohort, no name is shared.

    What both hold would be trained on and then called external. Tables of results are joined by
    name, and every folder has its own 001.png: an external patch of such a name is called
    external/001.png.
    skip_bad: leaves such files out of the cohort.  cache: folder that keeps the checks of files.
    open_images: False compares paths, not bytes.
    Raises DataError where both hold a file, unless skip_bad.

    Example: cohort, external = keep_apart(cohort, external)
    """
    leaks = _leaks(cohort.table, external.table, cache, open_images)
    external = _with_names_apart(cohort, external)
    if not leaks:
        return cohort, external
    count = count_text(len(leaks), "patch of the study stands", "patches of the study stand")
    if not skip_bad:
        name, external_name = leaks[0]
        raise DataError(
            f"{count} in its external set as well, as {name} there {external_name}: delete one of "
            "the two, or leave those of the study out with skip_bad = true under [data]."
        )
    problems = judging.problem_table([("leak", name, (file, "external")) for name, file in leaks])
    is_leak = cohort.table["name"].isin({name for name, _ in leaks})
    cohort = replace(
        cohort,
        table=cohort.table[~is_leak].reset_index(drop=True),
        problems=pd.concat([problems, cohort.problems], ignore_index=True),
        sentences=[*cohort.sentences, f"{count} in its external set as well: left out here."],
    )
    return cohort, external


# --- helpers ------------------------------------------------------------------------------------


def _leaks(table, external_table, cache, open_images):
    """list of (name in the cohort, name in the external set) of one and the same file."""
    keys = _file_keys(table, cache, open_images)
    external_keys = _file_keys(external_table, cache, open_images)
    external_name = dict(zip(external_keys, external_table["name"], strict=True))
    pairs = zip(table["name"], keys, strict=True)
    return [(name, external_name[key]) for name, key in pairs if key in external_name]


def _file_keys(table, cache, open_images):
    """list of str (N,), what tells one file from another: its bytes, or its path."""
    if open_images:
        return probe_files(table["path"], cache=cache)["digest"].tolist()
    return [str(Path(path).resolve()) for path in table["path"]]


def _with_names_apart(cohort, external):
    """Source of the external set, names that the cohort has begin with external/."""
    shared = external.table["name"].isin(set(cohort.table["name"]))
    if not shared.any():
        return external
    names = external.table["name"]
    first = names[shared].iloc[0]
    count = count_text(int(shared.sum()), "name stands", "names stand")
    sentence = f"{count} in the study as well: here they are called {PREFIX}{first} and so on."
    table = external.table.assign(name=names.where(~shared, PREFIX + names))
    return replace(external, table=table, sentences=[*external.sentences, sentence])
