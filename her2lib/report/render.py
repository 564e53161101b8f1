"""Executed notebooks -> report.html and what lies beside it: PDF, every notebook with its code, tables for LaTeX and Word, drafts."""

import html
import os
import re
import shutil
import subprocess
import tempfile
from datetime import date
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, select_autoescape

from her2lib.files import ROOT, fingerprint, make_folder, write_json, write_table, write_text
from her2lib.report import drafts
from her2lib.report.sections import all_numbers
from her2lib.runner import workers
from her2lib.study.config import NOTEBOOK_OF
from her2lib.study.fingerprints import environment
from her2lib.study.results import run_records

TAG = "report"  # a notebook cell with this tag is part of the report
LIMIT_BYTES = 8_000_000
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
BY_HAND = "open report.html in a browser, choose Print and save as PDF"
PRINT_SECONDS = 180  # a report of 8 MB takes about 5 s
WIDE = 96  # characters of a table row that fit across a page; wider columns are wrapped
HERE = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader([HERE / "templates", HERE.parent]), autoescape=select_autoescape()
)
ACTIVE = [
    "script",
    "iframe",
    "object",
    "embed",
    "link",
    "base",
    "meta",
    "form",
    "input",
    "button",
]  # of strangers' HTML


def render_report(study):
    """Path of reports/<study>/report.html, made from the executed notebooks; report.pdf, appendix, tables, drafts and numbers beside it."""
    chapters = [chapter for task in _reading_order(study) if (chapter := _chapter(study, task))]
    if not chapters:
        raise ValueError(f"Study {study.name} has no executed notebook yet: her2 run {study.name}")
    numbers, done = all_numbers(study), run_records(study)
    write_table(study.folder / "numbers.csv", numbers)
    receipt = {
        "study": study.name,
        "made": date.today().isoformat(),
        "file": study.file.name,
        "environment": environment(),
        "runs": {name: run["fingerprints"] for name, run in done.items()},
    }
    write_json(study.folder / "receipt.json", receipt)
    explorer = (study.folder / "explorer.html").is_file()
    beside = {
        "tables": write_tables(study.folder / "tables", chapters),
        "drafts": drafts.write_drafts(study, done, numbers),
        "figures": _figures(study),
        "appendix": _appendix(study),
    }

    def written(no_pdf):
        page = TEMPLATES.get_template("report.html").render(
            study=study,
            chapters=chapters,
            receipt=receipt,
            id=fingerprint(receipt),
            beside=beside,
            no_pdf=no_pdf,
            explorer=explorer,
        )
        return write_text(study.folder / "report.html", page)

    page = written("")
    if said := pdf(page):
        print(said)
        written(said)
    if (size := page.stat().st_size) > LIMIT_BYTES:
        print(
            f"The report is {size / 1e6:.1f} MB, above {LIMIT_BYTES / 1e6:.0f} MB: lower gallery under [maps] in {study.file.name}."
        )
    return page


def current(executed, source):
    """Notebook as executed, with the prose that its source has now; unchanged when their code differs, so prose never lies about code."""
    ran = [
        cell
        for cell in executed.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    if [cell.source for cell in ran] != [cell.source for cell in code]:
        return executed
    added = [
        cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])
    ]
    ran, cells = iter(ran), []
    for cell in source.cells:
        cells.append({**next(ran), "metadata": cell.metadata} if cell.cell_type == "code" else cell)
        cells += added if "parameters" in cell.metadata.get("tags", []) else []
    return type(executed)({**executed, "cells": [type(executed)(cell) for cell in cells]})


def prose(text):
    """Html of a markdown cell, without ids: several notebooks have equal headings."""
    from nbconvert.filters import markdown2html  # 6 s to import: only where notebooks are shown

    text = re.sub(r'<a class="anchor-link".*?</a>', "", markdown2html(text))
    return re.sub(r'(<h\d) id="[^"]*"', r"\1", text)


def output(one):
    """Html of one output of a cell, balanced and without anything that could run or load; "" for progress bars and prints."""
    if one.output_type not in ("display_data", "execute_result"):
        return ""
    data = one.get("data", {})
    if "text/html" in data:
        return _harmless(data["text/html"])
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<figure><img alt="" src="data:{kind};base64,{html.escape("".join(data[kind].split()))}"></figure>'
    return f"<pre>{html.escape(data.get('text/plain', ''))}</pre>" if "text/plain" in data else ""


def whole(notebook):
    """Html of a notebook with nothing left out: prose, code, what it printed, results, and the error where it stopped."""
    from nbconvert.filters import Highlight2HTML

    coloured, parts = Highlight2HTML(pygments_lexer="python3"), []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            parts.append(prose(cell.source))
            continue
        parts.append(
            f"<div class=code>{coloured(cell.source)}</div>" if cell.source.strip() else ""
        )
        parts += [_said(one) or output(one) for one in cell.outputs]
    return "\n".join(part for part in parts if part)


def write_tables(folder, chapters):
    """list of dict (title, caption, tex, word: paths) after writing every table of the chapters' HTML as LaTeX (booktabs) and for Word."""
    from bs4 import BeautifulSoup

    folder, found, word = make_folder(folder), [], TEMPLATES.get_template("table.html")
    for old in [*folder.glob("*.tex"), *folder.glob("*.html")]:
        old.unlink()  # a table that the report no longer has
    for chapter in chapters:
        for figure in BeautifulSoup(chapter["body"], "html.parser").select("figure.table"):
            rows = [
                [cell.get_text(" ", strip=True) for cell in row.select("th, td")]
                for row in figure.select("tr")
            ]
            caption = figure.figcaption.get_text(" ", strip=True) if figure.figcaption else ""
            heading = figure.find_previous(["h2", "h3"])
            title = heading.get_text(" ", strip=True) if heading else chapter["title"]
            name = f"{len(found) + 1:02}_{_slug(title)[:40].strip('-')}"
            table = pd.DataFrame(rows[1:], columns=rows[0])
            found.append(
                {
                    "title": title,
                    "caption": caption,
                    "tex": write_text(folder / f"{name}.tex", latex(table, caption, label=name)),
                    "word": write_text(
                        folder / f"{name}.html",
                        word.render(head=rows[0], rows=rows[1:], caption=caption),
                    ),
                }
            )
    return found


def latex(table, caption, *, label=""):
    """str, a LaTeX table with booktabs rules, everything escaped; columns wrap when a row is wider than the page."""
    from nbconvert.filters import escape_latex

    width = [
        max(map(len, [str(name), *table.iloc[:, i].astype(str)]))
        for i, name in enumerate(table.columns)
    ]
    share = [max(6, min(n, 40)) for n in width]
    wrapped = "".join(
        rf">{{\raggedright\arraybackslash}}p{{{0.9 * n / sum(share):.3f}\linewidth}}" for n in share
    )
    lines = [
        " & ".join(escape_latex(str(cell)) for cell in row) + r" \\"
        for row in table.itertuples(index=False)
    ]
    head = " & ".join(rf"\textbf{{{escape_latex(str(name))}}}" for name in table.columns) + r" \\"
    return "\n".join(
        [
            r"% \usepackage{array, booktabs} \usepackage[T1]{fontenc}",
            r"\begin{table}[htbp]",
            r"\centering\small",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{wrapped if sum(width) > WIDE else 'l' * len(width)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def pdf(page):
    """ "" after writing report.pdf from report.html, or one sentence on why there is none and how to make it; never an exception."""
    page, target, program = (
        Path(page),
        Path(page).with_suffix(".pdf"),
        next(filter(None, map(shutil.which, BROWSERS)), None),
    )
    if not program:
        return f"There is no report.pdf, because no Chromium is on the PATH: {BY_HAND}."
    with tempfile.TemporaryDirectory(
        dir=page.parent, prefix="print-", ignore_cleanup_errors=True
    ) as folder:
        paper, made_ = Path(folder) / "report.html", Path(folder) / "report.pdf"
        # on paper a link to a neighbouring file would become this machine's absolute path
        paper.write_text(
            re.sub(r'<a href="(?!#)[^"]*">(.*?)</a>', r"\1", page.read_text(encoding="utf-8")),
            encoding="utf-8",
        )
        quiet = "--disable-gpu --disable-quic --disable-sync --no-first-run --disable-background-networking --disable-component-update"
        root = ["--no-sandbox"] * (
            hasattr(os, "geteuid") and os.geteuid() == 0
        )  # Chromium refuses its sandbox to root
        command = [
            program,
            "--headless",
            *quiet.split(),
            *root,
            f"--user-data-dir={folder}/profile",
            "--no-pdf-header-footer",
            f"--print-to-pdf={made_}",
            paper.as_uri(),
        ]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PRINT_SECONDS,
                check=False,
            )
            why = f"ended with {done.returncode}"
        except (OSError, subprocess.TimeoutExpired) as error:
            why = f"failed ({type(error).__name__})"
        if made_.is_file() and made_.read_bytes()[:5] == b"%PDF-":
            os.replace(made_, target)
            return ""
    target.unlink(missing_ok=True)  # an old one would show other numbers
    return f"There is no report.pdf, because {Path(program).name} {why}: {BY_HAND}."


def _said(one):
    """Html of what a cell printed, or of its error, colours of the terminal left out; "" for results."""
    if one.output_type == "stream":
        text = (
            one.text.split("\r")[-1] if "\r" in one.text else one.text
        )  # of a progress bar its last state
    elif one.output_type == "error":
        text = "\n".join(one.traceback)
    else:
        return ""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return f"<pre class={one.output_type}>{html.escape(plain)}</pre>"


def _harmless(text):
    from bs4 import BeautifulSoup
    from bs4.formatter import HTMLFormatter

    soup = BeautifulSoup(text, "html.parser")
    for tag in soup(ACTIVE):
        tag.decompose()
    for tag in soup(True):
        tag.attrs = {
            name: value for name, value in tag.attrs.items() if not name.lower().startswith("on")
        }
        for name in {"href", "src"} & set(tag.attrs):
            if not str(tag[name]).startswith(("data:image/", "#")):
                del tag[name]
    return soup.decode(formatter=HTMLFormatter(html.escape))  # the ids of numbers may hold quotes


def _reading_order(study):
    """First page first, then the notebooks by number; of many runs of one network the first stands in the report."""
    shown = {
        run["network"]: run["run"]
        for run in reversed(study.runs())
        if run["label_shuffle"] == "none"
    }
    runs = {run["run"] for run in study.runs()}
    folders = [
        folder.name
        for folder in make_folder(study.folder / "runs").iterdir()
        if (folder / "notebook.ipynb").is_file()
    ]
    wanted = [name for name in folders if name not in runs or name in shown.values()]
    return sorted(
        wanted, key=lambda name: (not name.startswith("10_"), _notebook_of(study, name), name)
    )


def _notebook_of(study, task):
    networks = {run["run"]: run["network"] for run in study.runs()}
    return NOTEBOOK_OF[networks[task]] if task in networks else task


def _chapter(study, task):
    notebook = _notebook(study, task)
    parts = [_part(cell) for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    body = "\n".join(part for part in parts if part)
    if not body:
        return None
    title = re.search(r"<h2[^>]*>(.*?)</h2>", body, re.S)
    return {
        "anchor": f"chapter-{_slug(task)}",
        "title": re.sub(r"<[^>]+>|¶", "", title[1]).strip() if title else task,
        "body": body,
    }


def _notebook(study, task, file="notebook.ipynb"):
    workers.light()
    import nbformat  # only where notebooks are read

    executed = nbformat.read(study.folder_of(task) / file, as_version=4)
    source = ROOT / "notebooks" / f"{_notebook_of(study, task)}.ipynb"
    return current(executed, nbformat.read(source, as_version=4)) if source.is_file() else executed


def _part(cell):
    if cell.cell_type == "markdown":
        return prose(cell.source)
    return "\n".join(filter(None, map(output, cell.get("outputs", []))))


def _appendix(study):
    """list of dict (anchor, title, failed, body) of every executed notebook after writing appendix.html, code and all."""
    from pygments.formatters import HtmlFormatter

    found = []
    for file in sorted(
        make_folder(study.folder / "runs").glob("*/*.ipynb"),
        key=lambda file: (_notebook_of(study, file.parent.name), file),
    ):
        if file.name in ("notebook.ipynb", "failed.ipynb"):
            task, failed = file.parent.name, file.name == "failed.ipynb"
            found.append(
                {
                    "anchor": _slug(f"{task}{'-failed' * failed}"),
                    "title": task,
                    "failed": failed,
                    "body": whole(_notebook(study, task, file.name)),
                }
            )
    style = HtmlFormatter().get_style_defs(".highlight")
    page = TEMPLATES.get_template("appendix.html").render(
        study=study, notebooks=found, code_style=style
    )
    write_text(study.folder / "appendix.html", page)
    return found


def _figures(study):
    """dict name -> {kind: relative path} of the figures that the notebooks kept."""
    found = {}
    for file in sorted(
        file for file in study.figures.iterdir() if file.suffix in (".png", ".svg", ".jpg")
    ):
        found.setdefault(file.stem, {})[file.suffix[1:].upper()] = f"figures/{file.name}"
    return found


def _slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
