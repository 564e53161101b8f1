"""Executed notebooks as HTML: today's prose over what was executed, and nothing in it that runs."""

import html
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from her2lib import files as files_
from her2lib.files import ROOT
from her2lib.study.keys import NETWORKS

TAG = "report"  # a notebook cell with this tag is part of the report
INJECTED = "injected-parameters"  # papermill's tag of the cell that it adds
ACTIVE = (  # of strangers' HTML
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
)
HERE = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader([HERE / "templates", HERE.parent]), autoescape=select_autoescape()
)


def executed_notebook(study, task, file="notebook.ipynb"):
    """Notebook of a task as executed, with the prose that its source has now."""
    files_.skip_address_grammar()
    import nbformat  # only where notebooks are read

    executed = nbformat.read(study.folder_of(task) / file, as_version=4)
    source = ROOT / "notebooks" / f"{notebook_of(study, task)}.ipynb"
    if not source.is_file():
        return executed
    return with_prose_of(executed, nbformat.read(source, as_version=4))


def notebook_of(study, task):
    """str, the name of the notebook that a task executes: a run's is its network's."""
    networks = {run["run"]: run["network"] for run in study.runs()}
    if task in networks:
        return NETWORKS[networks[task]].notebook
    return task


def with_prose_of(executed, source):
    """Notebook as executed, with the source's prose of now; unchanged when their code differs."""
    ran = [cell for cell in executed.cells if cell.cell_type == "code" and not _is_injected(cell)]
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    if [cell.source for cell in ran] != [cell.source for cell in code]:
        return executed  # prose must never lie about code
    injected = [cell for cell in executed.cells if _is_injected(cell)]
    results = iter(ran)
    cells = []
    for cell in source.cells:
        if cell.cell_type == "code":
            cells.append({**next(results), "metadata": cell.metadata})
        else:
            cells.append(cell)
        if "parameters" in cell.metadata.get("tags", []):
            cells.extend(injected)
    node = type(executed)
    return node({**executed, "cells": [node(cell) for cell in cells]})


# --- as HTML ------------------------------------------------------------------------------------


def for_report(notebook):
    """Html of the cells that are tagged for the report, without their code; "" if none."""
    parts = []
    for cell in notebook.cells:
        if TAG not in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            parts.append(prose(cell.source))
        else:
            parts.extend(output(one) for one in cell.get("outputs", []))
    return "\n".join(filter(None, parts))


def whole(notebook):
    """Html of a notebook with nothing left out: prose, code, prints, results, where it stopped."""
    from nbconvert.filters import Highlight2HTML

    coloured = Highlight2HTML(pygments_lexer="python3")
    parts = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            parts.append(prose(cell.source))
            continue
        if cell.source.strip():
            parts.append(f"<div class=code>{coloured(cell.source)}</div>")
        parts.extend(printed(one) or output(one) for one in cell.outputs)
    return "\n".join(filter(None, parts))


def prose(text):
    """Html of a markdown cell, without ids: several notebooks have equal headings."""
    from nbconvert.filters import markdown2html  # 6 s to import: only where notebooks are shown

    text = re.sub(r'<a class="anchor-link".*?</a>', "", markdown2html(text))
    return re.sub(r'(<h\d) id="[^"]*"', r"\1", text)


def output(one):
    """Html of one output of a cell, balanced, nothing in it runs or loads; "" for prints."""
    if one.output_type not in ("display_data", "execute_result"):
        return ""
    data = one.get("data", {})
    if "text/html" in data:
        return harmless(data["text/html"])
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            source = html.escape("".join(data[kind].split()))
            return f'<figure><img alt="" src="data:{kind};base64,{source}"></figure>'
    if "text/plain" in data:
        return f"<pre>{html.escape(data['text/plain'])}</pre>"
    return ""


def printed(one):
    """Html of what a cell printed, or of its error, without terminal colours; "" for results."""
    if one.output_type == "stream":
        text = one.text.split("\r")[-1]  # of a progress bar its last state
    elif one.output_type == "error":
        text = "\n".join(one.traceback)
    else:
        return ""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return f"<pre class={one.output_type}>{html.escape(plain)}</pre>"


def harmless(text):
    """Html without active tags, event handlers, and addresses other than pictures and anchors."""
    from bs4 import BeautifulSoup
    from bs4.formatter import HTMLFormatter

    soup = BeautifulSoup(text, "html.parser")
    for tag in soup(ACTIVE):
        tag.decompose()
    for tag in soup(True):
        for name in list(tag.attrs):
            handler = name.lower().startswith("on")
            address = name in ("href", "src")
            if handler or (address and not str(tag[name]).startswith(("data:image/", "#"))):
                del tag[name]
    return soup.decode(formatter=HTMLFormatter(html.escape))  # the ids of numbers may hold quotes


def _is_injected(cell):
    return INJECTED in cell.metadata.get("tags", [])
