"""Verbs on data: check, phantom, tile."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from her2lib.cli.options import (
    Count,
    CountOrNone,
    Flag,
    Fraction,
    Mpp,
    Seed,
    SidePx,
    app,
    print_problems,
)
from her2lib.files import write_table
from her2lib.study.config import StudyError


@app.command
def check(path: Path, *, deep: Flag = False, csv: Path | None = None) -> int:
    """List every problem of a data set with its remedy.

    Args:
        path: BCI folder, folder of score folders, or manifest.csv.
        deep: Decode every image as well (finds truncated files).
        csv: Write the table here too.
    """
    from her2lib.data.patches import check_patches

    problems, summary = check_patches(path, deep=deep)
    print(summary)
    for row in problems.itertuples():
        print(f"{row.severity:8} {row.file}\n         {row.problem}\n         Remedy: {row.remedy}")
    if csv:
        write_table(csv, problems)
    return int((problems["severity"] == "error").any())


@app.command
def phantom(
    folder: Path,
    *,
    patches: Count = 400,
    slides: Count = 51,
    side_px: SidePx = 1024,
    mpp: Mpp = 0.5,
    seed: Seed = 0,
    weak: Flag = False,
    truth: Flag = False,
    balanced: Flag = False,
    he: Flag = False,
    laboratories: Count = 1,
    external: CountOrNone = 0,
    raters: CountOrNone = 0,
    without: list[str] | None = None,
    with_: Annotated[list[str] | None, Parameter(name="--with")] = None,
    workers: Count | None = None,
) -> int:
    """Write a BCI-shaped folder of synthetic patches.

    Args:
        folder: New or unfinished folder; the same command goes on.
        mpp: Micrometres a pixel.
        weak: Every patch carries its slide's score, as in BCI.
        truth: Write masks and cell tables beside the patches.
        balanced: As many patches of every score (default: BCI's fractions).
        he: Write each patch's registered partner in haematoxylin and eosin too.
        laboratories: Laboratories, each with its own stain and scanner.
        external: Patches of an external site, another laboratory's.
        raters: Simulated readers, each with a leaning and a spread of their own.
        without: No blush, edge, clones … in any patch; may be repeated.
        with_: Force blush, edge, clones … in every patch; may be repeated.
        workers: Processes that paint (default: every core).
    """
    from her2lib.phantoms.dataset import write_phantoms

    artefacts = dict.fromkeys(without or [], False) | dict.fromkeys(with_ or [], True)
    sentence = write_phantoms(
        folder,
        patches=patches,
        slides=slides,
        side_px=side_px,
        mpp=mpp,
        seed=seed,
        weak=weak,
        truth=truth,
        balanced=balanced,
        he=he,
        laboratories=laboratories,
        external=external,
        raters=raters,
        workers=workers,
        **artefacts,
    )
    print(sentence)
    return 0


@app.command
def tile(
    *slides: Path,
    out: Path,
    tissue: Fraction = 0.1,
    patients: Path | None = None,
    mpp: Mpp = 0.46,
    side_px: Annotated[SidePx, Parameter(name=["--side", "--side-px"])] = 1024,
    slide_mpp: Mpp | None = None,
    workers: Count | None = None,
) -> int:
    """Cut whole slides into patches at a stated mpp.

    Args:
        slides: Slides, or folders of slides, of any format OpenSlide reads.
        out: New or unfinished folder; the same command goes on.
        tissue: Least fraction of tissue in a patch.
        patients: CSV table with the columns slide, patient.
        mpp: Micrometres a pixel of the patches.
        side_px: Side of the patches in pixels.
        slide_mpp: Micrometres a pixel of the slides' full resolution, where the file does not say.
        workers: Processes that cut (default: every core).
    """
    from her2lib.data.slides import read_patients, tile_slides

    if not slides:
        raise StudyError("Name at least one slide, or a folder of slides.")
    manifest, problems = tile_slides(
        slides,
        out,
        mpp=mpp,
        side_px=side_px,
        slide_mpp=slide_mpp,
        tissue=tissue,
        patients=read_patients(patients),
        workers=workers,
    )
    n_slides = manifest["slide"].nunique()
    print(f"{len(manifest)} patches of {n_slides} slides: {out / 'manifest.csv'}")
    return print_problems(problems)
