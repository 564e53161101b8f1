"""`her2`: thin verbs over the library. Nothing heavy is imported before a verb needs it."""

import argparse
import os
import sys
from pathlib import Path

from her2lib.files import write_table
from her2lib.study.config import StudyError, load_study, make_study, study_files

EPILOG = "Research use only: a patch-level surrogate is not an ASCO/CAP score."


def main(arguments=None):
    """int exit status: 0 done, 1 finished with failures or findings, 2 one sentence about what is wrong."""
    options = parser().parse_args(arguments)
    try:
        return options.verb(options) or 0
    except KeyboardInterrupt:
        print("her2: stopped. The same command goes on where it stopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        if os.environ.get("HER2_DEBUG"):
            raise
        print(f"her2: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        print("      (HER2_DEBUG=1 shows where this came from)", file=sys.stderr)
        return 2


def parser():
    """argparse.ArgumentParser of every verb; each help text says what is read and written."""
    top = argparse.ArgumentParser(
        prog="her2", description="HER2 study kit: from patches to a report.", epilog=EPILOG
    )
    verbs = top.add_subparsers(required=True, metavar="VERB")
    _run(_verb(verbs, "run", run, "run a study's notebooks and render its report"))
    _verb(
        verbs, "status", status, "show how far a study is; works from another terminal"
    ).add_argument("study")
    check_ = _verb(verbs, "check", check, "list every problem of a data set with its remedy")
    check_.add_argument("path", help="BCI folder, folder of score folders, or manifest.csv")
    check_.add_argument(
        "--deep", action="store_true", help="decode every image as well (finds truncated files)"
    )
    check_.add_argument("--csv", help="write the table here too")
    _phantom(_verb(verbs, "phantom", phantom, "write a BCI-shaped folder of synthetic patches"))
    _verb(verbs, "report", report, "render reports/<study>/report.html again").add_argument("study")
    explorer_ = _verb(
        verbs,
        "explorer",
        explorer,
        "write reports/<study>/explorer.html: patches and maps to explore without Python",
    )
    explorer_.add_argument("study")
    explorer_.add_argument(
        "--patches", type=int, default=48, help="how many, test set first (default 48)"
    )
    sheet_ = _verb(
        verbs,
        "sheet",
        sheet,
        "write blinded reading sheets (CSV and an offline page), one for each reader",
    )
    sheet_.add_argument(
        "source", metavar="STUDY|MANIFEST", help="a study, a manifest.csv or a folder of patches"
    )
    sheet_.add_argument("--readers", nargs="+", required=True, metavar="NAME")
    sheet_.add_argument(
        "--repeats",
        type=float,
        default=0.1,
        help="share of patches that each reader gets twice (default 0.1)",
    )
    sheet_.add_argument(
        "--into",
        metavar="FOLDER",
        default="sheets",
        help="new folder for the sheets and their key (default sheets)",
    )
    sheet_.add_argument("--seed", type=int, default=0)
    consensus_ = _verb(
        verbs,
        "consensus",
        consensus,
        "write the readings of filled sheets, and their consensus, into a manifest",
    )
    consensus_.add_argument(
        "sheets",
        nargs="+",
        metavar="SHEETS",
        help="folders of `her2 sheet`, or CSVs: patch and a column per reader",
    )
    consensus_.add_argument(
        "--into",
        metavar="MANIFEST",
        required=True,
        help="manifest.csv; its old scores are kept as score_given",
    )
    consensus_.add_argument("--how", choices=("majority", "median"), default="majority")
    diff_ = _verb(
        verbs,
        "diff",
        diff,
        "say which numbers of two studies differ by more than their intervals allow",
    )
    diff_.add_argument("study", metavar="STUDY_A")
    diff_.add_argument("other", metavar="STUDY_B")
    audit_ = _verb(
        verbs, "audit", audit, "recompute reported numbers (a TOML file, or a study's own report)"
    )
    audit_.add_argument("file", help="a .toml of reported figures, or the name of a study")
    _tile(_verb(verbs, "tile", tile, "cut whole slides into patches at a stated mpp"))
    _score(_verb(verbs, "score", score, "score new patches or slides with a finished run"))
    return top


def run(options):
    """int; executes the study and prints the path of the report."""
    from her2lib.runner import execute, plan

    study = load_study(_study_file(options))
    if not options.dry_run:
        _look_first(study)
    print(f"{study.name}: {study.question}")
    summary = execute.execute(
        study,
        only=options.only,
        force=options.force,
        workers=options.workers,
        per_gpu=options.per_gpu,
        scheduler=options.scheduler,
        insecure=options.insecure,
        dry_run=options.dry_run,
    )
    if options.dry_run:
        return 0
    print(summary)
    if options.only and not (study.folder_of(plan.REPORT) / "notebook.ipynb").is_file():
        print(f"There is no report yet: {plan.REPORT} has not been executed.")
        return summary.exit_code
    from her2lib.report import render  # only now: they bring matplotlib
    from her2lib.study import results

    made = (
        any(row["state"] == "done" for row in summary.rows)
        or not (study.folder / "explorer.html").exists()
    )
    if made and any(results.is_finished(study, row["run"]) for row in study.runs()):
        from her2lib.explorer import widget

        print(f"Explorer: {widget.publish_page(study)}")
    print(f"Report: {render.render_report(study)}")
    return summary.exit_code


def status(options):
    """int; prints one line per notebook from the files alone."""
    from her2lib.runner import execute

    print(execute.study_status(load_study(options.study)).to_string(index=False))
    return 0


def check(options):
    """int, 1 when there are errors; prints every problem with its remedy."""
    from her2lib.data import patches

    problems, summary = patches.check_patches(Path(options.path), deep=options.deep)
    print(summary)
    for row in problems.itertuples():
        print(f"{row.severity:8} {row.file}\n         {row.problem}\n         Remedy: {row.remedy}")
    if options.csv:
        write_table(options.csv, problems)
    return int((problems["severity"] == "error").any())


def phantom(options):
    """int; writes the folder, going on where an earlier call stopped."""
    from her2lib.phantoms import dataset

    kept = {
        key: value
        for key, value in vars(options).items()
        if key not in ("verb", "folder", "with", "without")
    }
    switches = dict.fromkeys(options.without, False) | dict.fromkeys(vars(options)["with"], True)
    print(dataset.write_phantoms(Path(options.folder), **kept, **switches))
    return 0


def report(options):
    """int; prints the path of the report."""
    from her2lib.report import render

    print(f"Report: {render.render_report(load_study(options.study))}")
    return 0


def explorer(options):
    """int; prints the path of the page."""
    from her2lib.explorer import widget

    print(f"Explorer: {widget.publish_page(load_study(options.study), patches=options.patches)}")
    return 0


def sheet(options):
    """int; writes the sheets and says where they lie."""
    import pandas as pd

    from her2lib.data import patches
    from her2lib.readers import sheets
    from her2lib.study import cohort

    path = Path(options.source)
    table = (
        patches.read_table(path)[0]
        if path.exists()
        else pd.concat(cohort.read_cohort(load_study(options.source))[0], ignore_index=True)
    )
    folder = sheets.write_sheets(
        table, options.into, readers=options.readers, repeats=options.repeats, seed=options.seed
    )
    print(
        f"{len(table)} patches for each of {len(options.readers)} readers: {folder}. Keep key.csv back; each reader gets one folder."
    )
    return 0


def consensus(options):
    """int, 1 when readings were left out; prints each problem and what was written."""
    from her2lib.data import patches
    from her2lib.readers import sheets

    names = set(patches.read_table(Path(options.into))[0]["name"])
    ratings, problems = sheets.collect_readings(options.sheets, patches=names)
    for sentence in [*problems, *sheets.write_to_manifest(options.into, ratings, how=options.how)]:
        print(sentence)
    return int(bool(problems))


def diff(options):
    """int, 1 when a number moved beyond the interval of its difference; prints these, and what only one study has."""
    from her2lib.report import findings as findings_
    from her2lib.report import sections

    both = [load_study(name) for name in (options.study, options.other)]
    tables = [sections.all_numbers(study) for study in both]
    for study, table in zip(both, tables, strict=True):
        if table.empty:
            raise StudyError(f"Study {study.name} has no numbers yet: her2 run {study.name}")
    found = findings_.moved_numbers(*tables, names=[sections.known_as(study) for study in both])
    for row in found[~found.verdict.isin(["within", "unchanged"])].itertuples():
        change = "" if row.verdict.startswith("only") else f": {row.before:.4g} -> {row.after:.4g}"
        by = (
            f", difference {row.difference:+.4g} ({row.low:.4g} to {row.high:.4g})"
            if row.verdict == "moved"
            else ""
        )
        print(f"{row.verdict:18} {row.id}{change}{by}")
    print(
        ", ".join(f"{n} {verdict}" for verdict, n in found.verdict.value_counts().items())
        + ". The interval of a difference is made "
        "from both intervals as if the studies were independent; shared patches make it too wide, so a small move may be missed."
    )
    return int((found.verdict == "moved").any())


def audit(options):
    """int, 1 when a number contradicts another; prints each finding in a sentence."""
    from her2lib.report import findings as findings_
    from her2lib.report import published, recount

    if options.file.endswith(".toml") and "[data]" not in Path(options.file).read_text(
        encoding="utf-8"
    ):
        findings = published.audit_file(options.file)
    else:
        findings = recount.audit_report(load_study(options.file).folder)
    for row in findings.itertuples():
        print(f"{row.verdict:14} {row.sentence}")
    return findings_.exit_code(findings)


def tile(options):
    """int, 1 when a slide could not be used; prints what was cut and a sentence for each such slide."""
    from her2lib.data import slides

    kept = {
        key: value
        for key, value in vars(options).items()
        if key not in ("verb", "slides", "out", "patients")
    }
    manifest, problems = slides.tile_slides(
        options.slides, Path(options.out), patients=slides.read_patients(options.patients), **kept
    )
    print(
        f"{len(manifest)} patches of {manifest.slide.nunique()} slides: {Path(options.out) / 'manifest.csv'}"
    )
    return _told(problems)


def score(options):
    """int, 1 when something was left out; prints a line per slide, what the columns mean and where the tables are."""
    from her2lib import scoring

    run_ = scoring.find_run(options.run)
    folder = Path(options.out or run_.resolve().parents[1] / "scored" / run_.name)
    given = {
        key: getattr(options, key) for key in ("mpp", "side_px", "slide_mpp", "workers", "maps")
    }
    table, summed, notes, problems = scoring.score_paths(
        options.paths, run_, folder=folder, **given
    )
    print(table.score.value_counts().sort_index().rename("patches").to_string())
    for row in summed[summed.metric == "summary score"].itertuples():
        print(f"{row.slide}: {row.value} ({row.n} patches)")
    print(*notes, f"Tables, maps and heat maps: {folder}", sep="\n")
    return _told(problems)


def _told(problems):
    for problem in problems:
        print(f"her2: {problem}", file=sys.stderr)
    return int(bool(problems))


def _verb(verbs, name, function, help_):
    verb = verbs.add_parser(
        name, help=help_, description=help_[0].upper() + help_[1:] + ".", epilog=EPILOG
    )
    verb.set_defaults(verb=function)
    return verb


def _run(verb):
    names = ", ".join(file.stem for file in study_files())
    verb.add_argument("study", nargs="?", help=f"a name ({names}) or a path of a .toml file")
    verb.add_argument(
        "--data", metavar="PATH", help="make a study from this folder or manifest instead"
    )
    verb.add_argument("--name", help="with --data: the study's name (default: the folder's)")
    verb.add_argument(
        "--network",
        action="append",
        help="with --data: a network, may be repeated (default resnet18)",
    )
    verb.add_argument(
        "--weights",
        help="with --data: imagenet (needs a network connection once), none, a file, or study:NAME",
    )
    verb.add_argument(
        "--side-px", type=int, help="with --data: side length of the patches given to the network"
    )
    verb.add_argument("--epochs", type=int, help="with --data: epochs of training")
    verb.add_argument(
        "--skip-bad",
        action="store_true",
        help="with --data: leave faulty files out and name them in the report",
    )
    verb.add_argument(
        "--only", metavar="PATTERN", help="only these notebooks or runs ('vit*') and what they need"
    )
    verb.add_argument("--force", action="store_true", help="do again what is complete")
    verb.add_argument(
        "--dry-run", action="store_true", help="print the plan and its cost, run nothing"
    )
    verb.add_argument("--workers", type=int, help="CPU slots (default 1: torch uses every core)")
    verb.add_argument(
        "--per-gpu", type=int, default=1, help="runs that share one GPU (each holds its own memory)"
    )
    verb.add_argument(
        "--scheduler", metavar="ADDRESS", help="an existing Dask scheduler, tls://host:port"
    )
    verb.add_argument(
        "--insecure",
        action="store_true",
        help="allow a scheduler without TLS: it runs whatever it is sent",
    )


def _phantom(verb):
    verb.add_argument("folder", help="new or unfinished folder; the same command goes on")
    verb.add_argument("--patches", type=int, default=400)
    verb.add_argument("--slides", type=int, default=51)
    verb.add_argument("--side-px", type=int, default=1024)
    verb.add_argument("--mpp", type=float, default=0.5, help="micrometres a pixel")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument(
        "--weak", action="store_true", help="every patch carries its slide's score, as in BCI"
    )
    verb.add_argument(
        "--truth", action="store_true", help="write masks and cell tables beside the patches"
    )
    verb.add_argument(
        "--balanced",
        action="store_true",
        help="as many patches of every score (default: BCI's shares)",
    )
    verb.add_argument(
        "--he",
        action="store_true",
        help="write each patch's registered partner in haematoxylin and eosin too",
    )
    verb.add_argument(
        "--laboratories",
        type=int,
        default=1,
        help="laboratories, each with its own stain and scanner",
    )
    verb.add_argument(
        "--external", type=int, default=0, help="patches of an external site, another laboratory's"
    )
    verb.add_argument(
        "--raters",
        type=int,
        default=0,
        help="simulated readers, each with a leaning and a spread of their own",
    )
    for name in ("without", "with"):
        verb.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="MISLEADER",
            help=f"{'no' if name == 'without' else 'force'} blush, edge, clones … in any patch; may be repeated",
        )
    verb.add_argument("--workers", type=int, default=None)


def _tile(verb):
    verb.add_argument(
        "slides", nargs="+", help="slides, or folders of slides, of any format OpenSlide reads"
    )
    verb.add_argument(
        "--out", required=True, help="new or unfinished folder; the same command goes on"
    )
    verb.add_argument(
        "--tissue", type=float, default=0.1, help="least share of tissue in a patch (default 0.1)"
    )
    verb.add_argument("--patients", metavar="CSV", help="table with the columns slide, patient")
    _fields(verb)


def _score(verb):
    verb.add_argument(
        "paths",
        nargs="+",
        help="images, folders of them, a folder made by `her2 tile`, a manifest.csv, or slides",
    )
    verb.add_argument("--run", required=True, help="reports/<study>/runs/<run>, or <study>/<run>")
    verb.add_argument(
        "--out", help="folder for tables and maps (default reports/<study>/scored/<run>)"
    )
    verb.add_argument(
        "--maps", type=int, default=200, help="at most so many patches get a map (default 200)"
    )
    _fields(verb)


def _fields(verb):
    verb.add_argument(
        "--mpp",
        type=float,
        default=0.46,
        help="micrometres a pixel of the patches cut from slides (default 0.46)",
    )
    verb.add_argument(
        "--side", dest="side_px", type=int, default=1024, help="their side in pixels (default 1024)"
    )
    verb.add_argument(
        "--slide-mpp",
        type=float,
        help="micrometres a pixel of the slides' full resolution, where the file does not say",
    )
    verb.add_argument("--workers", type=int, help="processes that cut (default: every core)")


def _look_first(study):
    """None; one sentence about data that cannot be used, before any notebook starts."""
    own = [study.cohort_path] if study.data["source"] != "phantom" else []
    for path in own + ([study.external_path] if study.data["external"] else []):
        from her2lib.data import patches  # not for phantoms, which need no look

        if not path.exists():
            raise StudyError(
                f"There is nothing at {path}: put the patches there, or correct [data] in {study.file.name}."
            )
        _, problems = patches.read_table(path, cache=study.store, progress=True)
        if not study.data["skip_bad"]:
            patches.stop_on_errors(problems, path=path)


def _study_file(options):
    if options.data and options.study:
        raise StudyError("Give a study or --data, not both.")
    if options.study:
        return options.study
    if not options.data:
        raise StudyError(
            f"Name a study ({', '.join(file.stem for file in study_files())}) or give --data PATH."
        )
    changes = {
        key: value for key in ("weights", "side_px", "epochs") if (value := getattr(options, key))
    }
    if "weights" in changes and Path(changes["weights"]).is_file():
        changes["weights"] = str(
            Path(changes["weights"]).resolve()
        )  # as typed here, whatever folder a notebook runs in
    return make_study(
        options.data,
        name=options.name or "",
        networks=options.network or ["resnet18"],
        skip_bad=options.skip_bad,
        **changes,
    )


if __name__ == "__main__":
    sys.exit(main())
