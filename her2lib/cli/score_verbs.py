"""Verbs on scores: score, sheet, consensus."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from her2lib.cli.options import (
    FIND_OUT_FLAGS,
    CountOrNone,
    DataFlags,
    Flag,
    Fraction,
    Mpp,
    Names,
    Seed,
    SidePx,
    Workers,
    app,
    print_problems,
)
from her2lib.study.config import StudyError, load_study


@app.command
def score(
    *paths: Path,
    run: str,
    stated: DataFlags = FIND_OUT_FLAGS,
    out: Path | None = None,
    maps: CountOrNone = 200,
    patch_mpp: Mpp | None = None,
    mpp: Mpp = 0.46,
    side_px: Annotated[SidePx, Parameter(name=["--side", "--side-px"])] = 1024,
    slide_mpp: Mpp | None = None,
    enlarge: Flag = False,
    regions: Path | None = None,
    region_class: list[str] | None = None,
    region_fraction: Fraction | None = None,
    workers: Workers | None = None,
) -> int:
    """Score new patches or slides with a finished run.

    Args:
        paths: Images, folders of them, a folder made by `her2 tile`, a manifest.csv, or slides.
        run: reports/<study>/runs/<run>, or <study>/<run>.
        out: Folder for tables and maps (default reports/<study>/scored/<run>).
        maps: At most so many patches get a map.
        patch_mpp: Micrometres a pixel of images and patches that do not state it.
        mpp: Micrometres a pixel at which slides are cut into patches.
        side_px: Side in pixels of the patches cut from slides.
        slide_mpp: Micrometres a pixel of the slides' full resolution, where the file does not say.
        enlarge: Cut slides of fewer pixels than --mpp asks for too, enlarged up to twice.
        regions: GeoJSON of QuPath, or a folder with one a slide: slides are cut only there.
        region_class: Only regions of this class; may be repeated.
        region_fraction: Least fraction of a patch in a region (default: its centre lies in one).
        workers: Processes that cut (default: every core).
    """
    from her2lib.data.judging import visible_text
    from her2lib.intake.layout_sentences import count_text
    from her2lib.scoring.paths import find_run, score_paths

    if not paths:
        raise StudyError("Name at least one image, folder, manifest.csv or slide.")
    finished_run = find_run(run)
    folder = out or finished_run.resolve().parents[1] / "scored" / finished_run.name
    table, slides, notes, problems = score_paths(
        paths,
        finished_run,
        folder=folder,
        maps=maps,
        choices=stated.choices(mpp=patch_mpp),
        mpp=mpp,
        side_px=side_px,
        slide_mpp=slide_mpp,
        enlarge=enlarge,
        regions=regions,
        region_class=region_class or (),
        region_fraction=region_fraction,
        workers=workers,
    )
    for note in notes:
        print(visible_text(note))
    print(table["score"].value_counts().sort_index().rename("patches").to_string())
    for row in slides[slides["metric"] == "summary score"].itertuples():
        n_patches = count_text(row.n, "patch", "patches")
        print(visible_text(f"{row.slide}: {row.value} ({n_patches})"))
    print(f"Tables, maps and heat maps: {folder}")
    return print_problems([visible_text(problem) for problem in problems])


@app.command
def sheet(
    source: str,
    *,
    readers: Names,
    stated: DataFlags = FIND_OUT_FLAGS,
    mpp: Mpp | None = None,
    repeats: Fraction = 0.1,
    into: Path = Path("sheets"),
    seed: Seed = 0,
) -> int:
    """Write blinded reading sheets (CSV and an offline page), one for each reader.

    Args:
        source: A study, a manifest.csv or a folder of patches.
        readers: Their names: --readers anna ben.
        mpp: Micrometres a pixel of patches that do not state it.
        repeats: Fraction of patches that each reader gets twice.
        into: New folder for the sheets and their key.
    """
    from her2lib.intake.layout_sentences import count_text
    from her2lib.readers.sheets import write_sheets

    table, problems = _patches_of(source, stated.choices(mpp=mpp))
    if table.empty:
        raise StudyError(
            f"No patch of {source} can be used, so there is nothing to read; "
            f"`her2 check {shlex.quote(source)}` lists why."
        )
    folder = write_sheets(table, into, readers=readers, repeats=repeats, seed=seed)
    print(f"{len(table)} patches for each of {count_text(len(readers), 'reader')}: {folder}.")
    print("Keep key.csv back; each reader gets one folder.")
    for line in problems:
        print(line, file=sys.stderr)
    return int(bool(problems))


@app.command
def consensus(
    *sheets: Path,
    into: Path,
    how: Literal["majority", "median"] = "majority",
    readers: Names | None = None,
    score_word: tuple[str, ...] = (),
    dry_run: Flag = False,
) -> int:
    """Write the readings of filled sheets, and the consensus of all readings, into a manifest.

    Args:
        sheets: Folders of `her2 sheet`, or tables (.csv, .xlsx): patch and a column per reader.
        into: manifest.csv; its old scores are kept as score_given, the old file beside it.
        how: How several readings of a patch become one score.
        readers: The readers that count: --readers anna ben (default: every column of scores).
        score_word: What a word means as a score: negative=0; may be repeated.
        dry_run: Say who was read and what would be settled, write nothing.
    """
    from her2lib.intake.choices import read_score_words
    from her2lib.readers.merging import gather_readings, merge_into_manifest, open_manifest

    if not sheets:
        raise StudyError("Name at least one folder of sheets, or a table of readings.")
    score_words = read_score_words(score_word)
    manifest, names = open_manifest(into)
    readings = gather_readings(
        sheets, patches=names, readers=readers or (), score_words=score_words
    )
    for sentence in [*readings.sentences, *readings.problems]:
        print(sentence)
    merger = merge_into_manifest(manifest, readings.ratings, how=how, score_words=score_words)
    print(*merger.sentences, sep="\n")
    if dry_run:
        print("This was a dry run: nothing was written.")
    else:
        print(merger.write())
    return int(bool(readings.problems))


# --- helpers ----------------------------------------------------------------------------------


def _patches_of(source, choices):
    """(DataFrame of the patches of a study, or of a folder or manifest; lines on what is not)."""
    import pandas as pd

    from her2lib.data.judging import problem_lines, visible_text
    from her2lib.data.patches import read_source
    from her2lib.study.cohort import read_cohort

    if not Path(source).exists():
        for name in choices.stated():
            raise StudyError(
                f"{source} is a study, whose own file says how its patches are read: leave "
                f"--{name.replace('_words', '_word').replace('_', '-')} out."
            )
        tables, _ = read_cohort(load_study(source))
        return pd.concat(tables, ignore_index=True), []
    read = read_source(Path(source), choices=choices, progress=True)
    for sentence in read.sentences:
        print(visible_text(sentence))
    errors = read.problems[read.problems["severity"] == "error"]
    return read.table, problem_lines(errors)
