"""Whole slides -> tissue -> patches at a stated mpp, with the reason for every field left out.

Any format that OpenSlide reads. Cutting resumes: every field that is done stands in a log beside
the patches, so a command that was killed goes on where it stopped.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pandas as pd
from filelock import FileLock, Timeout
from PIL import Image

from her2lib.files import DataError, make_folder, write_bytes
from her2lib.intake import listing
from her2lib.intake.columns import MPP
from her2lib.intake.layout_sentences import count_text
from her2lib.slides import (
    annotations,
    field_cutter,
    slide_files,
    slide_grid,
    tile_tables,
    tissue_finder,
)
from her2lib.slides.slide_files import first_few, is_slide, name_of

__all__ = ["Tiling", "is_slide", "name_of", "tile_slides"]

# A slide is called H&E where at least this fraction of its fields looks so.
MOST_FIELDS = 0.5
# Endings of GeoJSON; QuPath writes the first.
GEOJSON = (".geojson", ".json")


# --- cutting slides into patches ------------------------------------------------------------------


@dataclass(frozen=True)
class Tiling:
    """What a call of tile_slides did; as a pair it is (manifest, problems)."""

    manifest: pd.DataFrame  # a row per patch of the slides of this call
    problems: list[str] = field(default_factory=list)  # a sentence for each thing to mend
    notes: list[str] = field(default_factory=list)  # what was read as what, and left aside

    def __iter__(self) -> Iterator[Any]:
        return iter((self.manifest, self.problems))


def tile_slides(
    paths: Sequence[Path | str],
    folder: Path | str,
    *,
    mpp: float = 0.46,
    side_px: int = 1024,
    slide_mpp: float | None = None,
    tissue: float = 0.1,
    enlarge: bool = False,
    regions: Path | str | None = None,
    region_class: Sequence[str] = (),
    region_fraction: float | None = None,
    patients: Mapping[str, str] | None = None,
    allow: Sequence[Path | str] = (),
    workers: int | None = None,
    progress: bool = True,
) -> Tiling:
    """Tiling of PNG patches of every slide, in folder/<slide>; a sentence per problem.

    Writes manifest.csv, skipped.csv (the fields left out, each with its reason), slides.csv and,
    for QuPath, <slide>/fields.geojson. The same call again cuts only what is missing, and what
    people wrote into manifest.csv stays; other settings in the same folder are refused.

    paths: slides, or folders of them, those below included.  folder: is made where it is not there.
    mpp: micrometres a pixel of the patches, 0.05 to 10.  side_px: their side, 32 to 8192 px.
    slide_mpp: micrometres a pixel of level 0, for slides that do not state it.
    tissue: the least fraction of a field that is tissue, 0 to 1.
    enlarge: cut also where a slide has fewer pixels than mpp asks for, up to twice enlarged.
    regions: GeoJSON of one slide, or a folder with one a slide: cut only there.
    region_class: only regions of these classes.  region_fraction: the least fraction of a field
    that lies in them; None asks for its centre.
    patients: {slide: patient} for the manifest, as tile_tables.read_patients gives it.
    allow: folders outside that links may lead into.
    workers: processes, None for one a core.  progress: a bar for each slide.

    Raises DataError where nothing can begin: no slide there, two slides of one name, a setting out
    of range, another command at work in the folder, a manifest that cannot be read. A slide that
    fails is a problem, not an error.

    manifest, problems = tile_slides(["slides/"], "patches/", mpp=0.5, side_px=512)
    """
    _check_settings(mpp, side_px, tissue)
    there = slide_files.find_slides(paths, allow=allow, skip=folder)
    folder = make_folder(folder)
    with _alone(folder):
        names, naming = slide_files.name_slides(there.slides, field_cutter.cut_before(folder))
        earlier = tile_tables.read_earlier(folder)
        patient_of, patient_notes, unclear = tile_tables.match_patients(
            patients or {}, earlier.slide_names() | names
        )
        tile_tables.check_patients(earlier, patient_of)
        region_files, region_notes = _find_regions(regions, names)
        job = _Job(
            folder=folder,
            settings={"mpp": mpp, "side_px": side_px, "slide_mpp": slide_mpp, "tissue": tissue},
            enlarge=enlarge,
            names=names,
            region_files=region_files,
            region_class=region_class,
            region_fraction=region_fraction,
            progress=progress,
        )
        with field_cutter.open_pool(workers) as pool:
            tiled, problems, slide_notes = _cut_all(job, pool)
        # Cutting takes hours, in which somebody may have written into the tables.
        earlier = tile_tables.read_earlier(folder)
        manifest, table_notes = tile_tables.write_tables(earlier, tiled, patient_of)
    return Tiling(
        manifest,
        [*there.refused.values(), *unclear, *problems],
        [
            *there.sentences(len(tiled)),
            *naming,
            *patient_notes,
            *region_notes,
            *slide_notes,
            *table_notes,
        ],
    )


# --- one slide after the other --------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """What a call asks for, of every slide alike."""

    folder: Path
    settings: dict[str, Any]
    enlarge: bool
    names: dict[Path, str]
    region_files: dict[str, Path] | None  # name of a slide -> GeoJSON; None cuts everywhere
    region_class: Sequence[str]
    region_fraction: float | None
    progress: bool


def _cut_all(job: _Job, pool: Executor):
    """(list of (facts, fields) of the slides that could be cut, problems, notes)."""
    tiled = []
    problems = []
    notes = []
    try:
        for path in job.names:
            try:
                facts, fields, about_regions = _cut_one(path, job, pool)
            except (openslide.OpenSlideError, DataError) as error:
                problems += _told_apart([_failure(path, error)], path, job)
            else:
                tiled.append((facts, fields))
                problems += _told_apart(_slide_problems(path, facts, job.folder), path, job)
                notes += _told_apart([*about_regions, *_slide_notes(path, facts)], path, job)
    except BrokenProcessPool as error:
        raise DataError(
            "A process that cuts was ended from outside, perhaps for want of memory: give fewer "
            "--workers. The same command goes on where it stopped."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return tiled, problems, [*notes, *_unused_scale_notes(tiled, job.settings["slide_mpp"])]


def _cut_one(path, job, pool):
    """(facts, fields, sentences) of one slide, after cutting what earlier calls have not cut.

    facts is a row of slides.csv, fields a DataFrame with a row per field.
    """
    settings = job.settings
    with slide_grid.open_slide(path) as slide:
        slide_mpp = slide_grid.pixel_size(
            slide, path.name, settings["slide_mpp"], is_only=len(job.names) == 1
        )
        grid = slide_grid.grid_of(
            slide,
            path,
            mpp=settings["mpp"],
            side_px=settings["side_px"],
            slide_mpp=slide_mpp,
            enlarge=job.enlarge,
        )
        width, height = slide.dimensions
        regions, notes = _regions_of(path, job, slide_grid.scanned_box(slide)[2:])
        picture, scanned, down = tissue_finder.overview(slide, slide_mpp=slide_mpp)
    tissue, pen, white = tissue_finder.find_tissue(picture, scanned)
    name = job.names[path]
    home = make_folder(job.folder / name)
    fields = tissue_finder.plan_fields(
        grid,
        tissue,
        pen,
        down,
        settings["tissue"],
        in_region=_fields_in(regions, grid, job.region_fraction),
    )
    if len(fields):
        # the log of a slide holds for these settings and for this very file, wherever it lies
        file_name, n_bytes, time_ns = slide_files.file_identity(path)
        identity = {"path": file_name, "file": [n_bytes, time_ns]}
        title = name[:24] if job.progress else ""
        log_settings = asdict(grid) | settings | identity | {"slide_mpp": slide_mpp}
        field_cutter.cut_fields(
            fields, home, grid, white, settings=log_settings, pool=pool, title=title
        )
    facts = {
        "slide": name,
        # bytes that are no UTF-8 would break the table
        "file": os.fsencode(path).decode(errors="replace"),
        "width": width,
        "height": height,
        "slide_mpp": slide_mpp,
        "mpp": grid.mpp,
        "step": grid.step,
        "down": down,
        "left": grid.left,
        "top": grid.top,
        tile_tables.ENLARGED: slide_grid.enlargement(grid.mpp, slide_mpp),
    }
    _write_pictures(home, picture, fields, grid, down, regions)
    return facts | _count_fields(fields), fields, notes


def _write_pictures(home, picture, fields, grid, down, regions):
    """None; thumbnail, overview and, for QuPath, the fields and the regions of a slide."""
    outlined = tissue_finder.draw_fields(picture, fields, grid, down, _region_rings(regions, grid))
    write_bytes(home / "thumbnail.png", field_cutter.png_bytes(Image.fromarray(picture)))
    write_bytes(home / "overview.png", field_cutter.png_bytes(outlined))
    origin = (grid.left, grid.top)
    annotations.write_fields(
        home / "fields.geojson", fields, slide=home.name, step=grid.step, origin=origin
    )
    if regions:
        annotations.write_regions(home / "regions.geojson", regions)


def _count_fields(fields):
    """dict, how many fields of a slide became patches, how many each reason left out, and H&E."""
    counts = fields.reason.value_counts()
    left_out = {reason: int(counts.get(reason, 0)) for reason in tile_tables.REASONS}
    eosin = pd.to_numeric(fields.eosin[fields.reason == ""])
    n_he = int((eosin >= tissue_finder.HE_FRACTION).sum())
    return {"patches": int(counts.get("", 0)), **left_out, "h_and_e": n_he}


# --- regions that people drew ---------------------------------------------------------------------


def _find_regions(source, names):
    """({name of a slide: its GeoJSON} or None, sentences) of one file, or a folder with several."""
    if source is None:
        return None, []
    source = Path(source)
    if not source.exists():
        raise DataError(f"There is nothing at {source}: name a GeoJSON file or a folder of them.")
    if source.is_file() and len(names) == 1:
        return dict.fromkeys(names.values(), source), []
    files = [source]
    if source.is_dir():
        below = [source / file for file in listing.list_files(source).files]
        files = [file for file in below if file.suffix.lower() in GEOJSON]
    by_text = {file.name.removesuffix(file.suffix): file for file in files}
    matches = slide_files.match_names(by_text, names)
    if not matches.slide_of:
        raise DataError(
            f"No GeoJSON at {source} is named after a slide: call it <slide>.geojson, with the "
            f"slide one of {first_few(sorted(names.values()))}."
        )
    region_files: dict[str, Path] = {}
    for text, slide in matches.slide_of.items():
        other = region_files.setdefault(slide, by_text[text])
        if other != by_text[text]:
            raise DataError(f"{other} and {by_text[text]} both mean slide {slide}: take one away.")
    useless = [by_text[text].name for text in [*matches.unmatched, *matches.unclear]]
    if not useless:
        return region_files, []
    return region_files, [
        f"{count_text(len(useless), 'GeoJSON file')} at {source} left aside, named after no one "
        f"slide here: {first_few(useless)}."
    ]


def _regions_of(path, job, size_px):
    """(list of Region or None for everywhere, sentences) of one slide, size_px wide and high."""
    if job.region_files is None:
        return None, []
    file = job.region_files.get(job.names[path])
    if file is None:
        raise DataError(
            f"{path.name} has no GeoJSON of its own among the regions: nothing is cut of it. Draw "
            f"its regions and save them as {job.names[path]}.geojson."
        )
    drawn = annotations.read_regions(file, classes=job.region_class)
    annotations.check_inside(drawn, slide=path.name, width=size_px[0], height=size_px[1])
    return drawn.regions, drawn.sentences()


def _fields_in(regions, grid, least):
    """(rows,columns) bool, the fields whose centre lies in a region; None for everywhere.

    Where least is given, those of which at least that fraction does.
    """
    if regions is None:
        return None
    samples = annotations.SAMPLES
    if least is None:
        samples = 1
    # Regions count from the corner of what was scanned, where the grid begins.
    covered = annotations.covered_fraction(
        regions,
        left=0,
        top=0,
        step=grid.step,
        columns=grid.columns,
        rows=grid.rows,
        samples=samples,
    )
    return covered >= max(least or 0, 1e-9)


def _region_rings(regions, grid):
    """list of (V,2), every ring of the regions in px of level 0."""
    rings = []
    for region in regions or []:
        for polygon in region.polygons:
            rings += [ring + np.array([grid.left, grid.top]) for ring in polygon]
    return rings


# --- problems, tables, files ----------------------------------------------------------------------


def _check_settings(mpp, side_px, tissue):
    """Raises DataError where a setting of tile_slides is out of range."""
    if not (MPP[0] <= mpp <= MPP[1] and 32 <= side_px <= 8192 and 0 <= tissue <= 1):
        raise DataError(
            f"mpp={mpp}, side={side_px}, tissue={tissue}: take {MPP[0]} to {MPP[1]} micrometres, "
            "32 to 8192 px and 0 to 1."
        )


def _failure(path, error):
    """str, why a slide could not be cut."""
    if isinstance(error, DataError):
        return str(error)
    return (
        f"{path.name} is no slide that OpenSlide reads, or damaged: copy it again from its source."
    )


def _told_apart(sentences, path, job):
    """list of str, sentences about a slide, behind its path where two slides have its file name."""
    n_so_called = sum(other.name == path.name for other in job.names)
    if n_so_called == 1:
        return sentences
    return [f"{path}: {sentence}" for sentence in sentences]


def _slide_problems(path, facts, folder):
    """list of str, what is wrong with a slide that was read to the end and cut into a folder."""
    overview = folder / facts["slide"] / "overview.png"
    problems = []
    if facts["unreadable"]:
        problems.append(
            f"{path.name} is damaged: {facts['unreadable']} of its fields cannot be read: copy it "
            "again from its source."
        )
    elif not facts["patches"]:
        reasons = [reason for reason in tile_tables.REASONS if facts[reason]]
        counts = ", ".join(f"{facts[reason]} {reason}" for reason in reasons)
        problems.append(
            f"{path.name} holds no tissue that can be used (fields: {counts}): look at {overview}."
        )
    if facts["h_and_e"] and facts["h_and_e"] >= MOST_FIELDS * facts["patches"]:
        problems.append(
            f"{path.name} is no H-DAB slide: {facts['h_and_e']} of {facts['patches']} fields look "
            f"like H&E. HER2 scores mean nothing on it: look at {overview} and cut the slide "
            "stained for HER2."
        )
    return problems


def _slide_notes(path, facts):
    """list of str, what was done to a slide that a reader of its patches should know."""
    factor = facts[tile_tables.ENLARGED]
    if factor == 1:
        return []
    count = count_text(facts["patches"], "patch", "patches")
    return [
        f"{path.name} has {facts['slide_mpp']:g} micrometres a pixel: enlarged {factor:.3g} times "
        f"to {facts['mpp']:.3g} without finer detail, {count} "
        f"(--mpp {facts['slide_mpp']:g} would take its pixels as they are)."
    ]


def _unused_scale_notes(tiled, slide_mpp):
    """list of str, which slides state another scale than the one given for those that do not."""
    if not slide_mpp:
        return []
    others = []
    for facts, _ in tiled:
        if not slide_grid.same_size(facts["slide_mpp"], slide_mpp):
            others.append(f"{facts['slide']} {facts['slide_mpp']:g}")
    if not others:
        return []
    return [
        f"--slide-mpp {slide_mpp:g} is for slides that state nothing. Cut by what they "
        f"state themselves, {count_text(len(others), 'slide')}: {first_few(others)}."
    ]


def _alone(folder):
    """Context that holds a folder: one command at a time cuts into it.

    The system lets go of the lock when its command dies.
    """
    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(blocking=False)
    except Timeout as error:
        raise DataError(
            f"Another command is cutting into {folder}: wait for it, or give another --out."
        ) from error
