"""`her2`: thin verbs over the library. Nothing heavy is imported before a verb needs it."""

import argparse
import os
import sys
from pathlib import Path

from her2lib.study import StudyError, from_data, load, studies

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
    top = argparse.ArgumentParser(prog="her2", description="HER2 study kit: from patches to a report.", epilog=EPILOG)
    verbs = top.add_subparsers(required=True, metavar="VERB")
    _run(_verb(verbs, "run", run, "run a study's notebooks and render its report"))
    status_ = _verb(verbs, "status", status, "show how far a study is; works from another terminal")
    status_.add_argument("study")
    check_ = _verb(verbs, "check", check, "list every problem of a data set with its remedy")
    check_.add_argument("path", help="BCI folder, folder of score folders, or manifest.csv")
    check_.add_argument("--deep", action="store_true", help="decode every image as well (finds truncated files)")
    check_.add_argument("--csv", help="write the table here too")
    _phantom(_verb(verbs, "phantom", phantom, "write a BCI-shaped folder of synthetic patches"))
    report_ = _verb(verbs, "report", report, "render reports/<study>/report.html again")
    report_.add_argument("study")
    audit_ = _verb(verbs, "audit", audit, "recompute reported numbers (a TOML file, or a study's own report)")
    audit_.add_argument("file", help="a .toml of reported figures, or the name of a study")
    return top


def run(options):
    """int; executes the study and prints the path of the report."""
    from her2lib import run as run_

    study = load(_study_file(options))
    if not options.dry_run:
        _look_first(study)
    print(f"{study.name}: {study.question}")
    summary = run_.execute(
        study, only=options.only, force=options.force, workers=options.workers, per_gpu=options.per_gpu,
        scheduler=options.scheduler, insecure=options.insecure, dry_run=options.dry_run,
    )
    if options.dry_run:
        return 0
    print(summary)
    from her2lib import report as report_  # only now: it brings matplotlib

    print(f"Report: {report_.render(study)}")
    return summary.exit_code


def status(options):
    """int; prints one line per notebook from the files alone."""
    from her2lib import run as run_

    print(run_.status(load(options.study)).to_string(index=False))
    return 0


def check(options):
    """int, 1 when there are errors; prints every problem with its remedy."""
    from her2lib import patches
    from her2lib.study import write_table

    problems, summary = patches.check(Path(options.path), deep=options.deep)
    print(summary)
    for row in problems.itertuples():
        print(f"{row.severity:8} {row.file}\n         {row.problem}\n         Remedy: {row.remedy}")
    if options.csv:
        write_table(options.csv, problems)
    return int((problems["severity"] == "error").any())


def phantom(options):
    """int; writes the folder, going on where an earlier call stopped."""
    from her2lib import phantom as phantom_

    kept = {key: value for key, value in vars(options).items() if key not in ("verb", "folder")}
    print(phantom_.write(Path(options.folder), **kept))
    return 0


def report(options):
    """int; prints the path of the report."""

    from her2lib import report as report_

    print(f"Report: {report_.render(load(options.study))}")
    return 0


def audit(options):
    """int, 1 when a number contradicts another; prints each finding in a sentence."""
    from her2lib import audit as audit_

    if options.file.endswith(".toml") and "[data]" not in Path(options.file).read_text(encoding="utf-8"):
        findings = audit_.audit_file(options.file)
    else:
        findings = audit_.audit_report(load(options.file).folder)
    for row in findings.itertuples():
        print(f"{row.verdict:14} {row.sentence}")
    return audit_.exit_code(findings)


def _verb(verbs, name, function, help_):
    verb = verbs.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".", epilog=EPILOG)
    verb.set_defaults(verb=function)
    return verb


def _run(verb):
    names = ", ".join(file.stem for file in studies())
    verb.add_argument("study", nargs="?", help=f"a name ({names}) or a path of a .toml file")
    verb.add_argument("--data", metavar="PATH", help="make a study from this folder or manifest instead")
    verb.add_argument("--name", help="with --data: the study's name (default: the folder's)")
    verb.add_argument("--network", action="append", help="with --data: a network, may be repeated (default resnet18)")
    verb.add_argument("--weights", help="with --data: imagenet (needs a network connection once), none, or a file")
    verb.add_argument("--side-px", type=int, help="with --data: side length of the patches given to the network")
    verb.add_argument("--epochs", type=int, help="with --data: epochs of training")
    verb.add_argument("--skip-bad", action="store_true", help="with --data: leave faulty files out and name them in the report")
    verb.add_argument("--only", metavar="PATTERN", help="only these notebooks or runs ('vit*') and what they need")
    verb.add_argument("--force", action="store_true", help="do again what is complete")
    verb.add_argument("--dry-run", action="store_true", help="print the plan and its cost, run nothing")
    verb.add_argument("--workers", type=int, help="CPU slots (default 1: torch uses every core)")
    verb.add_argument("--per-gpu", type=int, default=1, help="runs that share one GPU (each holds its own memory)")
    verb.add_argument("--scheduler", metavar="ADDRESS", help="an existing Dask scheduler, tls://host:port")
    verb.add_argument("--insecure", action="store_true", help="allow a scheduler without TLS: it runs whatever it is sent")


def _phantom(verb):
    verb.add_argument("folder", help="new or unfinished folder; the same command goes on")
    verb.add_argument("--patches", type=int, default=400)
    verb.add_argument("--slides", type=int, default=51)
    verb.add_argument("--side-px", type=int, default=1024)
    verb.add_argument("--mpp", type=float, default=0.5, help="micrometres a pixel")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--weak", action="store_true", help="every patch carries its slide's score, as in BCI")
    verb.add_argument("--truth", action="store_true", help="write masks and cell tables beside the patches")
    verb.add_argument("--external", type=int, default=0, help="patches of an external site with raters")
    verb.add_argument("--workers", type=int, default=None)


def _look_first(study):
    """None; one sentence about data that cannot be used, before any notebook starts."""
    own = [study.cohort_path] if study.data["source"] != "phantom" else []
    for path in own + ([study.external_path] if study.data["external"] else []):
        from her2lib import patches  # not for phantoms, which need no look

        if not path.exists():
            raise StudyError(f"There is nothing at {path}: put the patches there, or correct [data] in {study.file.name}.")
        _, problems = patches.read(path, cache=study.store, progress=True)
        if not study.data["skip_bad"]:
            patches.stop_on_errors(problems, path=path)


def _study_file(options):
    if options.data and options.study:
        raise StudyError("Give a study or --data, not both.")
    if not options.data and not options.study:
        raise StudyError(f"Name a study ({', '.join(file.stem for file in studies())}) or give --data PATH.")
    if not options.data:
        return options.study
    changes = {key: value for key in ("weights", "side_px", "epochs") if (value := getattr(options, key))}
    return from_data(options.data, name=options.name or "", networks=options.network or ["resnet18"], skip_bad=options.skip_bad, **changes)


if __name__ == "__main__":
    sys.exit(main())
