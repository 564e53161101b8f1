"""Patches read, checked and decoded in one call, table and pixels in one order."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from her2lib import files
from her2lib.data import splits
from her2lib.data.common_field import bring_to_common_field
from her2lib.data.patches import Patches, read_source, stop_on_errors
from her2lib.intake.choices import state_choices


@dataclass(frozen=True)
class Cohort:
    """Patches with all that is known of them: row i of table is patch i of patches."""

    table: pd.DataFrame  # columns.COLUMNS and rater_*, as read_table returns them
    patches: Patches
    notes: list[str]  # sentences for page one: what the data leave open
    problems: pd.DataFrame  # severity, file, problem, remedy, kind

    def split(
        self, seed: int = 0, val: float = 0.2, test: float = 0.2
    ) -> tuple[Patches, Patches, Patches]:
        """(train, val, test) Patches: whole patients or slides, balanced by score.

        Sets that the data give stay; val and test are fractions, the test set is taken first.
        Patches without a score, and those of the external set, are in none of the three.
        Warns where the sets may not be independent: no slide is known, or given sets cut slides.
        Raises DataError where no patch has a score.

        Example: train, val, test = cohort.split(seed=0)
        """
        table, _ = splits.split_table(self.table, seed=seed, val=val, test=test)
        for note in splits.dependence_notes(table):
            warnings.warn(note, stacklevel=2)
        patches = replace(self.patches, subset=table["set"].to_numpy(object))
        train_patches = patches[patches.subset == "train"]
        val_patches = patches[patches.subset == "val"]
        test_patches = patches[patches.subset == "test"]
        return train_patches, val_patches, test_patches


def read_patches(
    path: Path | str,
    *,
    side_px: int = 224,
    skip_bad: bool = False,
    cache: Path | str | None = None,
    progress: bool = True,
    **stated: Any,
) -> Cohort:
    """Cohort of a folder or manifest: every file checked, every patch decoded once to side_px.

    path: a folder with manifest.csv (path,score), a BCI folder, folders named by score, a table,
    or a public set as downloaded; cohort.notes says as what it was read.
    side_px: side of the decoded squares, in pixels.
    skip_bad: go on without patches that have errors; cohort.problems names them.
    cache: folder that keeps the decoded pixels for the next call, files.CACHE / "stores" if None.
    stated: fields of choices.Choices, for what could be read in two ways: score_from="folder1",
    allow=("/store",), score_words={"negative": "0"}, mpp=0.25, any_field=True …
    Raises DataError, in one sentence with the remedy, for the first error unless skip_bad.

    Example: cohort = read_patches("my_patches/", side_px=224)
    """
    # Brings torch, 3 s, which whoever reads tables only does without.
    from her2lib.data import store

    cache = Path(cache or files.CACHE / "stores")
    choices = state_choices(**stated)
    source = read_source(path, choices=choices, cache=cache, progress=progress)
    table, problems = source.table, source.problems
    if not skip_bad:
        stop_on_errors(problems, path=path)
    table, field_notes = bring_to_common_field(table, cache=cache)
    patches = store.open_store(
        table, side_px=side_px, folder=cache, progress=progress, skip_bad=skip_bad
    )

    # What only decoding finds has no pixels in the store, so it loses its row of the table too.
    lost = store.lost_patches(table, side_px=side_px, folder=cache)
    lost = lost.rename(columns={"name": "file"}).assign(severity="error", kind="undecodable")
    table = table[~table["name"].isin(lost["file"])].reset_index(drop=True)
    problems = pd.concat([lost[problems.columns], problems], ignore_index=True)
    notes = [*_notes(table, problems), *source.sentences, *field_notes]
    return Cohort(table, patches, notes, problems)


def _notes(table, problems):
    """list of sentences for page one: what was left out, and what is not known."""
    notes = []
    errors = problems[problems["severity"] == "error"]
    if len(errors):
        count = errors["file"].nunique()
        notes.append(f"Left out for errors: {count} in all, each listed with its remedy.")
    return [*notes, *splits.dependence_notes(table), *splits.unscored_notes(table)]
