"""Verbs on scores: score, sheet, consensus."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from her2lib.cli.options import (
    Count,
    CountOrNone,
    Fraction,
    Mpp,
    Names,
    Seed,
    SidePx,
    app,
    print_problems,
)
from her2lib.study.config import StudyError, load_study


@app.command
def score(
    *paths: Path,
    run: str,
    out: Path | None = None,
    maps: CountOrNone = 200,
    mpp: Mpp = 0.46,
    side_px: Annotated[SidePx, Parameter(name=["--side", "--side-px"])] = 1024,
    slide_mpp: Mpp | None = None,
    workers: Count | None = None,
) -> int:
    """Score new patches or slides with a finished run.

    Args:
        paths: Images, folders of them, a folder made by `her2 tile`, a manifest.csv, or slides.
        run: reports/<study>/runs/<run>, or <study>/<run>.
        out: Folder for tables and maps (default reports/<study>/scored/<run>).
        maps: At most so many patches get a map.
        mpp: Micrometres a pixel of the patches cut from slides.
        side_px: Their side in pixels.
        slide_mpp: Micrometres a pixel of the slides' full resolution, where the file does not say.
        workers: Processes that cut (default: every core).
    """
    from her2lib import scoring

    if not paths:
        raise StudyError("Name at least one image, folder, manifest.csv or slide.")
    finished_run = scoring.find_run(run)
    folder = out or finished_run.resolve().parents[1] / "scored" / finished_run.name
    table, slides, notes, problems = scoring.score_paths(
        paths,
        finished_run,
        folder=folder,
        maps=maps,
        mpp=mpp,
        side_px=side_px,
        slide_mpp=slide_mpp,
        workers=workers,
    )
    print(table["score"].value_counts().sort_index().rename("patches").to_string())
    for row in slides[slides["metric"] == "summary score"].itertuples():
        print(f"{row.slide}: {row.value} ({row.n} patches)")
    print(*notes, f"Tables, maps and heat maps: {folder}", sep="\n")
    return print_problems(problems)


@app.command
def sheet(
    source: str,
    *,
    readers: Names,
    repeats: Fraction = 0.1,
    into: Path = Path("sheets"),
    seed: Seed = 0,
) -> int:
    """Write blinded reading sheets (CSV and an offline page), one for each reader.

    Args:
        source: A study, a manifest.csv or a folder of patches.
        readers: Their names: --readers anna ben.
        repeats: Fraction of patches that each reader gets twice.
        into: New folder for the sheets and their key.
    """
    from her2lib.readers.sheets import write_sheets

    table = _patches_of(source)
    folder = write_sheets(table, into, readers=readers, repeats=repeats, seed=seed)
    print(f"{len(table)} patches for each of {len(readers)} readers: {folder}.")
    print("Keep key.csv back; each reader gets one folder.")
    return 0


@app.command
def consensus(*sheets: Path, into: Path, how: Literal["majority", "median"] = "majority") -> int:
    """Write the readings of filled sheets, and their consensus, into a manifest.

    Args:
        sheets: Folders of `her2 sheet`, or CSVs: patch and a column per reader.
        into: manifest.csv; its old scores are kept as score_given.
        how: How several readings of a patch become one score.
    """
    from her2lib.data.patches import read_table
    from her2lib.readers.sheets import collect_readings, write_to_manifest

    if not sheets:
        raise StudyError("Name at least one folder of sheets, or a CSV of readings.")
    names = set(read_table(into)[0]["name"])
    ratings, problems = collect_readings(sheets, patches=names)
    for sentence in [*problems, *write_to_manifest(into, ratings, how=how)]:
        print(sentence)
    return int(bool(problems))


# --- helpers ----------------------------------------------------------------------------------


def _patches_of(source):
    """DataFrame of the patches of a study, with its external set, or of a folder or manifest."""
    import pandas as pd

    from her2lib.data.patches import read_table
    from her2lib.study.cohort import read_cohort

    if Path(source).exists():
        return read_table(Path(source))[0]
    tables, _ = read_cohort(load_study(source))
    return pd.concat(tables, ignore_index=True)
