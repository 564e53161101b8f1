"""`her2`: thin verbs over the library. Nothing heavy is imported before a verb needs it."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from her2lib.files import write_table
from her2lib.study.config import Study, StudyError, load_study, make_study, study_files

RESEARCH_USE = "Research use only: a patch-level surrogate is not an ASCO/CAP score."

app = App(
    name="her2",
    help=f"HER2 study kit: from patches to a report. {RESEARCH_USE}",
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
    help_format="plaintext",
)

# What a number on the command line may be; anything else is refused before a verb starts.
Count = Annotated[int, Parameter(validator=Number(gte=1))]
CountOrNone = Annotated[int, Parameter(validator=Number(gte=0))]
Fraction = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
Seed = Annotated[int, Parameter(validator=Number(gte=0))]
SidePx = Annotated[int, Parameter(validator=Number(gte=16))]
Mpp = Annotated[float, Parameter(validator=Number(gt=0))]
Flag = Annotated[bool, Parameter(show_default=False)]
Names = Annotated[list[str], Parameter(consume_multiple=True)]


def main(arguments: list[str] | None = None) -> int:
    """int exit status: 0 done, 1 finished with failures or findings, 2 refused in a sentence."""
    try:
        status = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
        return status or 0
    except KeyboardInterrupt:
        print("her2: stopped. The same command goes on where it stopped.", file=sys.stderr)
        return 130
    except CycloptsError as error:
        print(f"her2: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        if os.environ.get("HER2_DEBUG"):
            raise
        sentence = error.args[0] if isinstance(error, KeyError) else error
        print(f"her2: {sentence}", file=sys.stderr)
        print("      (HER2_DEBUG=1 shows where this came from)", file=sys.stderr)
        return 2


# ---- a study ---------------------------------------------------------------


@app.command
def run(
    study: str | None = None,
    *,
    data: Path | None = None,
    name: str | None = None,
    network: list[str] | None = None,
    weights: str | None = None,
    side_px: SidePx | None = None,
    epochs: Count | None = None,
    skip_bad: Flag = False,
    only: str | None = None,
    force: Flag = False,
    dry_run: Flag = False,
    workers: Count | None = None,
    per_gpu: Count = 1,
    scheduler: str | None = None,
    insecure: Flag = False,
) -> int:
    """Run a study's notebooks and render its report.

    Args:
        study: A name in studies/ or reports/, or a path of a .toml file.
        data: Make a study from this folder or manifest instead.
        name: With --data: the study's name (default: the folder's).
        network: With --data: a network, may be repeated (default resnet18).
        weights: With --data: imagenet (needs a connection once), none, a file, or study:NAME.
        side_px: With --data: side length of the patches given to the network.
        epochs: With --data: epochs of training.
        skip_bad: With --data: leave faulty files out and name them in the report.
        only: Only these notebooks or runs ('vit*') and what they need.
        force: Do again what is complete.
        dry_run: Print the plan and its cost, run nothing.
        workers: CPU slots (default 1: torch uses every core).
        per_gpu: Runs that share one GPU (each holds its own memory).
        scheduler: An existing Dask scheduler, tls://host:port.
        insecure: Allow a scheduler without TLS: it runs whatever it is sent.
    """
    from her2lib.runner.execute import execute_study

    if data and study:
        raise StudyError("Give a study or --data, not both.")
    if data:
        changes = {"weights": weights, "side_px": side_px, "epochs": epochs}
        study = str(_study_of_data(data, name or "", network or ["resnet18"], skip_bad, changes))
    if not study:
        known = ", ".join(file.stem for file in study_files())
        raise StudyError(f"Name a study ({known}) or give --data PATH.")
    loaded = load_study(study)
    if not dry_run:
        _check_data(loaded)
    print(f"{loaded.name}: {loaded.question}")
    summary = execute_study(
        loaded,
        only=only,
        force=force,
        dry_run=dry_run,
        workers=workers,
        per_gpu=per_gpu,
        scheduler=scheduler,
        insecure=insecure,
    )
    if dry_run:
        return 0
    print(summary)
    _write_pages(loaded, summary, partly=bool(only))
    return summary.exit_code


@app.command
def status(study: str) -> int:
    """Show how far a study is; works from another terminal."""
    from her2lib.runner.execute import study_status

    print(study_status(load_study(study)).to_string(index=False))
    return 0


@app.command
def report(study: str) -> int:
    """Render reports/<study>/report.html again."""
    from her2lib.report.render import render_report

    print(f"Report: {render_report(load_study(study))}")
    return 0


@app.command
def explorer(study: str, *, patches: Count = 48) -> int:
    """Write reports/<study>/explorer.html: patches and maps to explore without Python.

    Args:
        patches: How many patches, the test set first.
    """
    from her2lib.explorer.page import publish_page

    print(f"Explorer: {publish_page(load_study(study), patches=patches)}")
    return 0


@app.command
def diff(study_a: str, study_b: str) -> int:
    """Say which numbers of two studies differ by more than their intervals allow."""
    from her2lib.report.findings import move_sentence, moved_numbers
    from her2lib.report.sections import all_numbers, known_as

    studies = [load_study(study_a), load_study(study_b)]
    tables = [all_numbers(study) for study in studies]
    for study, table in zip(studies, tables, strict=True):
        if table.empty:
            raise StudyError(f"Study {study.name} has no numbers yet: her2 run {study.name}")
    moves = moved_numbers(*tables, names=(known_as(studies[0]), known_as(studies[1])))
    for row in moves[~moves["verdict"].isin(["within", "unchanged"])].itertuples():
        print(move_sentence(row))
    counts = moves["verdict"].value_counts().items()
    print(", ".join(f"{n} {verdict}" for verdict, n in counts) + ".")
    print(
        "The interval of a difference is made from both intervals as if the studies were "
        "independent; shared patches make it too wide, so a small move may be missed."
    )
    return int((moves["verdict"] == "moved").any())


@app.command
def audit(file: str) -> int:
    """Recompute reported numbers: a .toml of reported figures, or a study's own report."""
    from her2lib.report.findings import exit_code
    from her2lib.report.published import audit_file
    from her2lib.report.recount import audit_report

    if _holds_reported_figures(file):
        findings = audit_file(file)
    else:
        findings = audit_report(load_study(file).folder)
    for row in findings.itertuples():
        print(f"{row.verdict:14} {row.sentence}")
    return exit_code(findings)


# ---- data --------------------------------------------------------------------------------------


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
    return _print_problems(problems)


# ---- scores ------------------------------------------------------------------------------------


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
    return _print_problems(problems)


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


# ---- helpers -----------------------------------------------------------------------------------


def _study_of_data(data, name, networks, skip_bad, changes):
    """Path of a study file made for a user's folder or manifest."""
    wanted = {key: value for key, value in changes.items() if value}
    if "weights" in wanted and Path(wanted["weights"]).is_file():
        # as typed here, whatever folder a notebook runs in
        wanted["weights"] = str(Path(wanted["weights"]).resolve())
    return make_study(data, name=name, networks=networks, skip_bad=skip_bad, **wanted)


def _check_data(study: Study):
    """None; one sentence about data that cannot be used, before any notebook starts."""
    paths = []
    if study.data["source"] != "phantom":
        paths.append(study.cohort_path)
    if study.data["external"] and study.external_path:
        paths.append(study.external_path)
    for path in paths:
        from her2lib.data import patches  # not for phantoms, which need no check

        if not path.exists():
            raise StudyError(
                f"There is nothing at {path}: put the patches there, "
                f"or correct [data] in {study.file.name}."
            )
        _, problems = patches.read_table(path, cache=study.store, progress=True)
        if not study.data["skip_bad"]:
            patches.stop_on_errors(problems, path=path)


def _write_pages(study, summary, *, partly):
    """None; writes the explorer's page and the report of what has been executed, and says where."""
    from her2lib.runner.plan import REPORT

    if partly and not (study.folder_of(REPORT) / "notebook.ipynb").is_file():
        print(f"There is no report yet: {REPORT} has not been executed.")
        return
    from her2lib.explorer.page import publish_page  # only now: these bring torch and matplotlib
    from her2lib.report.render import render_report
    from her2lib.study.results import is_finished

    anything_new = any(row["state"] == "done" for row in summary.rows)
    anything_new = anything_new or not (study.folder / "explorer.html").exists()
    if anything_new and any(is_finished(study, row["run"]) for row in study.runs()):
        print(f"Explorer: {publish_page(study)}")
    print(f"Report: {render_report(study)}")


def _patches_of(source):
    """DataFrame of the patches of a study, with its external set, or of a folder or manifest."""
    import pandas as pd

    from her2lib.data.patches import read_table
    from her2lib.study.cohort import read_cohort

    if Path(source).exists():
        return read_table(Path(source))[0]
    tables, _ = read_cohort(load_study(source))
    return pd.concat(tables, ignore_index=True)


def _holds_reported_figures(file):
    """bool, whether a file is a table of reported figures and not a study's own file."""
    return file.endswith(".toml") and "[data]" not in Path(file).read_text(encoding="utf-8")


def _print_problems(problems):
    """int exit status, 1 when there are problems; each is printed as a sentence."""
    for problem in problems:
        print(f"her2: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
