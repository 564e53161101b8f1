"""Verbs on a study: run, status, report, explorer, diff, audit."""

from pathlib import Path

from her2lib import files
from her2lib.cli.options import (
    FIND_OUT_FLAGS,
    Count,
    DataFlags,
    Flag,
    Mpp,
    SidePx,
    Workers,
    app,
)
from her2lib.files import did_you_mean
from her2lib.study.config import Study, StudyError, load_study, made_files, study_files


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
    mpp: Mpp | None = None,
    stated: DataFlags = FIND_OUT_FLAGS,
    only: str | None = None,
    force: Flag = False,
    dry_run: Flag = False,
    workers: Workers | None = None,
    per_gpu: Workers = 1,
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
        mpp: With --data: micrometres a pixel of patches that do not state it.
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
    changes = {"weights": weights, "side_px": side_px, "epochs": epochs}
    choices = stated.choices(mpp=mpp)
    made = None
    if data:
        made = _study_of_data(data, name or "", network or [], skip_bad, choices, changes)
        print("".join(f"{sentence}\n" for sentence in made.sentences), end="")
        loaded = made.study()
    else:
        about_data = choices.stated()
        about_data["score_word"] = about_data.pop("score_words", {})
        flags = {"name": name, "network": network, "skip_bad": skip_bad, **changes, **about_data}
        _refuse_flags_of_data(flags)
        loaded = _known_study(study)
    if made or not dry_run:
        _check_data(loaded, open_images=not dry_run)
    if made and not dry_run:
        made.write()
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

    print(study_status(_known_study(study)).to_string(index=False))
    return 0


@app.command
def report(study: str) -> int:
    """Render reports/<study>/report.html again."""
    loaded = _known_study(study)
    from her2lib.report.render import render_report  # only now: it brings matplotlib

    print(f"Report: {render_report(loaded)}")
    return 0


@app.command
def explorer(study: str, *, patches: Count = 48) -> int:
    """Write reports/<study>/explorer.html: patches and maps to explore without Python.

    Args:
        patches: How many patches, the test set first.
    """
    from her2lib.study.results import is_finished

    loaded = _known_study(study)
    if not any(is_finished(loaded, row["run"]) for row in loaded.runs()):
        raise StudyError(f"Study {loaded.name} has no finished run yet: her2 run {loaded.name}")
    from her2lib.explorer.page import publish_page  # only now: it brings torch

    print(f"Explorer: {publish_page(loaded, patches=patches)}")
    return 0


@app.command
def diff(study_a: str, study_b: str) -> int:
    """Say which numbers of two studies differ by more than their intervals allow."""
    from her2lib.report.findings import move_sentence, moved_numbers
    from her2lib.report.sections import all_numbers, known_as

    studies = [_known_study(study_a), _known_study(study_b)]
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
    from her2lib.report.published import audit_file, holds_figures
    from her2lib.report.recount import audit_report

    if file.endswith(".toml") and holds_figures(file):
        findings = audit_file(file)
    else:
        study = _known_study(file)
        for name in ("numbers.csv", "report.html"):
            if not (study.folder / name).is_file():
                raise StudyError(f"Study {study.name} has no numbers yet: her2 run {study.name}")
        findings = audit_report(study.folder, scores=study.declared_scores)
    if findings.empty:
        print(
            f"Nothing in {file} can be checked: no figure has parts, a number of patches or a rate."
        )
    for row in findings.itertuples():
        print(f"{row.verdict:14} {row.sentence}")
    return exit_code(findings)


# --- helpers ----------------------------------------------------------------------------------


def _known_study(name):
    """Study by its name or file; raises for the form, and where its folder is another study's."""
    from her2lib.study.making import FORM, check_folder

    if not name:
        known = ", ".join(file.stem for file in study_files())
        raise StudyError(f"Name a study ({known}) or give --data PATH.")
    study = load_study(name)
    if study.file.resolve() == (files.ROOT / "studies" / f"{FORM}.toml").resolve():
        hint = ""
        if made_files():
            hint = did_you_mean(FORM, [file.stem for file in made_files()])
        raise StudyError(
            f"studies/{FORM}.toml is the empty form that `her2 run --data PATH` fills in: give "
            f"--data, or the name of a study made so.{hint}"
        )
    check_folder(study)
    return study


def _refuse_flags_of_data(flags):
    """None; raises for a flag that says something of a study to be made, where none is made."""
    for flag, value in flags.items():
        if value:
            raise StudyError(
                f"--{flag.replace('_', '-')} belongs to --data PATH: a study that is there says it "
                "in its own file."
            )


def _study_of_data(data, name, networks, skip_bad, choices, changes):
    """MadeStudy of a user's folder or manifest; nothing is written yet."""
    from her2lib.study.making import prepare_study

    wanted = {key: value for key, value in changes.items() if value}
    if "weights" in wanted and Path(wanted["weights"]).is_file():
        # as typed here, whatever folder a notebook runs in
        wanted["weights"] = str(Path(wanted["weights"]).resolve())
    return prepare_study(
        data, name=name, networks=networks, skip_bad=skip_bad, choices=choices, **wanted
    )


def _check_data(study: Study, *, open_images: bool):
    """None; one sentence about data that cannot be used, before any notebook starts.

    open_images: False, for a dry run, looks at names and tables alone and writes nothing.
    """
    paths = []
    if study.data["source"] != "phantom":
        paths.append(study.cohort_path)
    if study.data["external"] and study.external_path:
        paths.append(study.external_path)
    for path in paths:
        if not path.exists():
            raise StudyError(
                f"There is nothing at {path}: put the patches there, "
                f"or correct [data] in {study.file.name}."
            )
    if paths:
        from her2lib.study import cohort  # not for phantoms, which need no check

        sources = cohort.read_sources(study, open_images=open_images)
        print(*cohort.reading_notes(study, sources), sep="\n")
        if not (sources[0].table["score"] >= 0).any():
            raise StudyError(
                f"No usable patch of {study.cohort_path} has a score, so no study can be made of "
                "it; `her2 score` reads patches without scores."
            )


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
