"""Executed notebooks -> report.html, and what lies beside it: PDF, appendix, tables, drafts."""

import re
from datetime import date
from pathlib import Path

from her2lib.files import fingerprint, write_json, write_table, write_text
from her2lib.report import drafts
from her2lib.report.executed import (
    TEMPLATES,
    executed_notebook,
    for_report,
    notebook_of,
    whole,
)
from her2lib.report.printing import print_pdf
from her2lib.report.sections import all_numbers
from her2lib.report.tables import slug, write_tables
from her2lib.study.config import Study
from her2lib.study.fingerprints import environment
from her2lib.study.results import run_records

LIMIT_BYTES = 8_000_000
PICTURES = (".png", ".svg", ".jpg")


def render_report(study: Study) -> Path:
    """Path of reports/<study>/report.html, made of the executed notebooks.

    Beside it: report.pdf, appendix.html, tables/, drafts/, numbers.csv, receipt.json.
    Raises ValueError when no notebook has been executed.
    """
    chapters = []
    for task in _reading_order(study):
        chapter = _chapter(study, task)
        if chapter:
            chapters.append(chapter)
    if not chapters:
        raise ValueError(f"Study {study.name} has no executed notebook yet: her2 run {study.name}")
    records = run_records(study)
    numbers = all_numbers(study)
    write_table(study.folder / "numbers.csv", numbers)
    contents = {
        "study": study,
        "chapters": chapters,
        "receipt": _write_receipt(study, records),
        "explorer": (study.folder / "explorer.html").is_file(),
        "beside": {
            "tables": write_tables(study.folder / "tables", chapters),
            "drafts": drafts.write_drafts(study, records, numbers),
            "figures": _figures(study),
            "appendix": _write_appendix(study),
        },
    }
    page = _write_page(contents, no_pdf="")
    problem = print_pdf(page)
    if problem:
        print(problem)
        _write_page(contents, no_pdf=problem)
    _warn_if_large(study, page)
    return page


def _write_page(contents, *, no_pdf):
    """Path of report.html; no_pdf is the sentence why there is no PDF, or ""."""
    study = contents["study"]
    receipt = contents["receipt"]
    template = TEMPLATES.get_template("report.html")
    page = template.render(**contents, id=fingerprint(receipt), no_pdf=no_pdf)
    return write_text(study.folder / "report.html", page)


def _write_receipt(study, records):
    """dict, what the report was made of; receipt.json holds it."""
    receipt = {
        "study": study.name,
        "made": date.today().isoformat(),
        "file": study.file.name,
        "environment": environment(),
        "runs": {name: record["fingerprints"] for name, record in records.items()},
    }
    write_json(study.folder / "receipt.json", receipt)
    return receipt


def _warn_if_large(study, page):
    size = page.stat().st_size
    if size > LIMIT_BYTES:
        print(
            f"The report is {size / 1e6:.1f} MB, above {LIMIT_BYTES / 1e6:.0f} MB: "
            f"lower gallery under [maps] in {study.file.name}."
        )


# --- chapters -----------------------------------------------------------------------------------


def _reading_order(study):
    """list of tasks: the first page, then by notebook; of a network's runs the first alone."""
    first_run = {}
    for run in study.runs():
        if run["label_shuffle"] == "none":
            first_run.setdefault(run["network"], run["run"])
    runs = {run["run"] for run in study.runs()}
    tasks = []
    for folder in (study.folder / "runs").glob("*"):
        if not (folder / "notebook.ipynb").is_file():
            continue
        if folder.name not in runs or folder.name in first_run.values():
            tasks.append(folder.name)

    def place(task):
        return (not task.startswith("10_"), notebook_of(study, task), task)

    return sorted(tasks, key=place)


def _chapter(study, task):
    """dict (anchor, title, body) of one executed notebook; None when no cell is for the report."""
    body = for_report(executed_notebook(study, task))
    if not body:
        return None
    title = task
    heading = re.search(r"<h2[^>]*>(.*?)</h2>", body, re.S)
    if heading:
        title = re.sub(r"<[^>]+>|¶", "", heading[1]).strip()
    return {"anchor": f"chapter-{slug(task)}", "title": title, "body": body}


def _write_appendix(study):
    """list of dict (anchor, title, failed, body) of every notebook, after writing appendix.html."""
    from pygments.formatters import HtmlFormatter

    def place(file):
        return (notebook_of(study, file.parent.name), file)

    notebooks = []
    for file in sorted((study.folder / "runs").glob("*/*.ipynb"), key=place):
        if file.name not in ("notebook.ipynb", "failed.ipynb"):
            continue
        task = file.parent.name
        failed = file.name == "failed.ipynb"
        anchor = f"{task}-failed" if failed else task
        entry = {
            "anchor": slug(anchor),
            "title": task,
            "failed": failed,
            "body": whole(executed_notebook(study, task, file.name)),
        }
        notebooks.append(entry)
    style = HtmlFormatter().get_style_defs(".highlight")
    template = TEMPLATES.get_template("appendix.html")
    page = template.render(study=study, notebooks=notebooks, code_style=style)
    write_text(study.folder / "appendix.html", page)
    return notebooks


def _figures(study):
    """dict name -> {kind: relative path} of the figures that the notebooks left."""
    figures = {}
    for file in sorted(study.figures.iterdir()):
        if file.suffix in PICTURES:
            kinds = figures.setdefault(file.stem, {})
            kinds[file.suffix[1:].upper()] = f"figures/{file.name}"
    return figures
