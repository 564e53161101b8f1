"""Verbs on data: check, phantom, tile."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from her2lib.cli.options import (
    FIND_OUT_FLAGS,
    Count,
    CountOrNone,
    DataFlags,
    Flag,
    Fraction,
    Mpp,
    Seed,
    SidePx,
    Workers,
    app,
    print_problems,
)
from her2lib.files import write_table
from her2lib.study.config import StudyError


@app.command
def check(
    path: Path,
    *,
    stated: DataFlags = FIND_OUT_FLAGS,
    mpp: Mpp | None = None,
    tables_only: Flag = False,
    deep: Flag = False,
    csv: Path | None = None,
) -> int:
    """Say as what a data set is read, and list every problem with its remedy.

    Args:
        path: Folder as it was brought, a public set as downloaded, or a table (.csv, .xlsx).
        mpp: Micrometres a pixel of patches that do not state it.
        tables_only: Open no image: read names and tables alone.
        deep: Decode every image as well (finds truncated files).
        csv: Write every problem here too, a row each.
    """
    from her2lib.data.judging import problem_lines
    from her2lib.data.patches import count_patches, read_source

    source = read_source(
        path,
        choices=stated.choices(mpp=mpp),
        open_images=not tables_only,
        deep=deep,
        progress=True,
    )
    problems = source.problems
    for sentence in source.sentences:
        print(sentence)
    if len(source.table):
        print(count_patches(source.table))
    for line in problem_lines(problems):
        print(line)
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
    workers: Workers | None = None,
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
    enlarge: Flag = False,
    regions: Path | None = None,
    region_class: list[str] | None = None,
    region_fraction: Fraction | None = None,
    allow: list[Path] | None = None,
    workers: Workers | None = None,
) -> int:
    """Cut whole slides into patches at a stated mpp.

    Args:
        slides: Slides, or folders of slides, of any format OpenSlide reads; folders below too.
        out: New or unfinished folder; the same command goes on.
        tissue: Least fraction of tissue in a patch.
        patients: Table (CSV or .xlsx) with the columns slide, patient.
        mpp: Micrometres a pixel of the patches.
        side_px: Side of the patches in pixels.
        slide_mpp: Micrometres a pixel of the slides' full resolution, where the file does not say.
        enlarge: Cut slides of fewer pixels too, enlarged up to twice; the manifest says so.
        regions: GeoJSON of QuPath, or a folder with one a slide: cut only there.
        region_class: Only regions of this class; may be repeated.
        region_fraction: Least fraction of a patch in a region (default: its centre lies in one).
        allow: Folder outside that links may lead into; may be repeated.
        workers: Processes that cut (default: every core).
    """
    from her2lib.intake.layout_sentences import count_text
    from her2lib.slides.tile_tables import read_patients
    from her2lib.slides.tiling import tile_slides

    if not slides:
        raise StudyError("Name at least one slide, or a folder of slides.")
    tiling = tile_slides(
        slides,
        out,
        mpp=mpp,
        side_px=side_px,
        slide_mpp=slide_mpp,
        tissue=tissue,
        enlarge=enlarge,
        regions=regions,
        region_class=region_class or (),
        region_fraction=region_fraction,
        patients=read_patients(patients),
        allow=allow or (),
        workers=workers,
    )
    n_slides = count_text(tiling.manifest["slide"].nunique(), "slide")
    n_patches = count_text(len(tiling.manifest), "patch", "patches")
    print(f"{n_patches} of {n_slides}: {out / 'manifest.csv'}")
    for sentence in tiling.notes:
        print(sentence)
    return print_problems(tiling.problems)
