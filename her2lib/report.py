"""Executed notebooks and tables -> report.html: one file without code or outside address. Every number carries its numbers.csv id."""

import base64
import html
import json
import re
from datetime import date
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, select_autoescape
from nbconvert.filters import markdown2html

from her2lib import plots
from her2lib.intervals import Estimate
from her2lib.scores import SCORES
from her2lib.study import environment, fingerprint, made, write_bytes, write_json, write_table, write_text

COLUMNS = ["id", "question", "set", "run", "metric", "value", "low", "high", "n", "units", "source", "note", "share"]
TAG = "report"  # a notebook cell with this tag is part of the report
LIMIT_BYTES = 8_000_000


class Html(str):
    """A piece of the report that Jupyter shows as it will stand there."""

    def _repr_html_(self):
        return str(self)


class Book:
    """What one notebook hands to the report: numbers with ids, sentences, tables and figures that carry them."""

    def __init__(self, study, notebook):
        self.study, self.notebook = study, notebook
        self.file = study.folder_of(notebook) / "numbers.csv"
        self.rows = {}
        write_table(self.file, pd.DataFrame(columns=COLUMNS))

    def add(self, table, *, question="", set="", run="", source=""):
        """dict metric -> id after keeping a tidy table (metric, value, low, high, n, units …), or {metric: Estimate}, in numbers.csv."""
        if isinstance(table, dict):
            table = pd.DataFrame([{"metric": metric, **vars(estimate)} for metric, estimate in table.items()])
        ids = {}
        for row in table.to_dict("records"):
            known = {"question": question or self.notebook, "set": set, "run": run, "source": source, "note": "", "share": False}
            row = {**known, **{key: value for key, value in row.items() if key in COLUMNS}}
            row["id"] = ids[row["metric"]] = "/".join(
                str(part) for part in (self.notebook[:2], row["set"], row["run"], row["metric"]) if str(part))
            self.rows[row["id"]] = row
        write_table(self.file, pd.DataFrame(self.rows.values(), columns=COLUMNS))
        return ids

    def number(self, id_, *, short=False):
        """Html of one number: its text with interval, n and unit, carrying its id; short leaves n and unit to the caption."""
        return number(self.rows[id_], short=short)

    def say(self, text, **numbers):
        """Html of a paragraph; {name} is replaced by the number whose id is given, other values are shown as text."""
        return Html(f"<p>{self._filled(text, numbers)}</p>")

    def table(self, ids, *, rows, caption, head=""):
        """Html table: rows maps a row's name to the ids (or texts) of its cells; ids names the columns."""
        body = []
        for name, cells in rows.items():
            shown = [number(self.rows[cell], short=True) if cell in self.rows else html.escape(str(cell)) for cell in cells]
            body.append(f"<tr><th>{html.escape(str(name))}</th>" + "".join(f"<td>{cell}</td>" for cell in shown) + "</tr>")
        top = "".join(f"<th>{html.escape(str(column))}</th>" for column in (head, *ids))
        return Html(f"<figure class=table><table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"
                    f"<figcaption>{html.escape(caption)}</figcaption></figure>")

    def figure(self, figure, name, caption, *, photo=False, **numbers):
        """Html figure with its caption; also written to figures/ at 300 dpi and, when it is no photograph, as SVG."""
        stem = f"{self.notebook[:2]}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}"
        for kind in ("jpeg",) if photo else ("png", "svg"):
            content, _ = plots.image_bytes(figure, kind=kind, dpi=200 if photo else 300)
            write_bytes(self.study.figures / f"{stem}.{kind.replace('jpeg', 'jpg')}", content)
        content, mime = plots.image_bytes(figure, photo=photo)
        plots.close(figure)
        source = f"data:{mime};base64,{base64.b64encode(content).decode()}"
        alt = html.escape(re.sub(r"\{\w+\}", "", caption), quote=True)
        return Html(f'<figure><img alt="{alt}" src="{source}"><figcaption>{self._filled(caption, numbers)}</figcaption></figure>')

    def _filled(self, text, numbers):
        shown = {key: number(self.rows[value]) if value in self.rows else html.escape(str(value)) for key, value in numbers.items()}
        return html.escape(text, quote=False).format(**shown)


def number(row, *, short=False):
    """Html span of one row of numbers.csv; the text is Estimate.text(), cut before n when short."""
    keys = ("value", "low", "high", "n", "units", "note", "share")
    text = Estimate(**{key: row[key] for key in keys}).text()
    if short and not text.startswith("not estimable"):
        text = text.split(";")[0].replace(" (no interval: ", " (no interval") + ")" if ";" in text else text
    title = html.escape(str(row["note"] or row["metric"]), quote=True)
    return Html(f'<span class=number data-number="{html.escape(row["id"], quote=True)}" title="{title}">{html.escape(text)}</span>')


def listing(table, *, caption="", columns=None):
    """Html table of plain text cells (file names, settings, findings), every cell escaped."""
    shown = table if columns is None else table[columns]
    body = shown.to_html(index=False, escape=True, border=0, na_rep="", float_format=lambda value: f"{value:.4g}")
    return Html(f"<figure class=table>{body.replace(chr(10), '')}<figcaption>{html.escape(caption)}</figcaption></figure>")


def case(row, *, confidence=True):
    """str caption of one predicted patch: file name, true score, predicted score, confidence."""
    probabilities = np.array([row[f"p{score}"] for score in range(len(SCORES))], float)
    best = int(probabilities.argmax())
    stem = str(row["patch"])
    stem = stem if len(stem) <= 34 else f"{stem[:15]}…{stem[-18:]}"
    sure = f", {probabilities[best]:.0%} sure" if confidence else ""
    true = SCORES[int(row["truth"])] if row["truth"] >= 0 else "?"
    return f"{stem}\ntrue {true}, predicted {SCORES[best]}{sure}"


def tables(study, name):
    """DataFrame of all tables of that name (predictions, history …) of the study's finished runs, one below the other."""
    frames = []
    for run in study.runs():
        file = study.folder_of(run["run"]) / f"{name}.csv"
        if finished(study, run["run"]) and file.is_file():
            frames.append(pd.read_csv(file, keep_default_na=False, na_values=["nan", "NaN"]).assign(run=run["run"]))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def records(study):
    """dict run -> run.json of every finished run, in reading order."""
    return {run["run"]: record(study, run["run"]) for run in study.runs() if finished(study, run["run"])}


def record(study, run):
    """dict, the run.json of one run; empty when there is none."""
    file = study.folder_of(run) / "run.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def finished(study, run):
    """bool, whether run.json says that the run is complete."""
    return bool(record(study, run).get("complete"))


def render(study):
    """Path of reports/<study>/report.html, made from the executed notebooks; numbers.csv and receipt.json beside it."""
    chapters = [chapter for task in _reading_order(study) if (chapter := _chapter(study, task))]
    if not chapters:
        raise ValueError(f"Study {study.name} has no executed notebook yet: her2 run {study.name}")
    merged = [pd.read_csv(file, keep_default_na=False) for file in sorted((study.folder / "runs").glob("*/numbers.csv"))]
    write_table(study.folder / "numbers.csv", pd.concat(merged, ignore_index=True)[COLUMNS] if merged else pd.DataFrame(columns=COLUMNS))
    receipt = {"study": study.name, "made": date.today().isoformat(), "file": study.file.name, "environment": environment(),
               "runs": {name: run.get("fingerprint", "") for name, run in records(study).items()}}
    write_json(study.folder / "receipt.json", receipt)
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape())
    page = templates.get_template("report.html").render(study=study, chapters=chapters, receipt=receipt, id=fingerprint(receipt))
    if len(page) > LIMIT_BYTES:
        print(f"The report is {len(page) / 1e6:.1f} MB, above {LIMIT_BYTES / 1e6:.0f} MB: lower gallery under [maps] in {study.file.name}.")
    return write_text(study.folder / "report.html", page)


def _reading_order(study):
    """First page first, then the notebooks by number; of many runs of one network the first stands in the report."""
    shown = {run["network"]: run["run"] for run in reversed(study.runs()) if run["twin"] == "none"}
    runs = {run["run"] for run in study.runs()}
    folders = [folder.name for folder in made(study.folder / "runs").iterdir() if (folder / "notebook.ipynb").is_file()]
    wanted = [name for name in folders if name not in runs or name in shown.values()]
    return sorted(wanted, key=lambda name: (not name.startswith("10_"), _notebook_of(study, name), name))


def _notebook_of(study, task):
    from her2lib.study import NOTEBOOK_OF

    networks = {run["run"]: run["network"] for run in study.runs()}
    return NOTEBOOK_OF[networks[task]] if task in networks else task


def _chapter(study, task):
    notebook = nbformat.read(study.folder_of(task) / "notebook.ipynb", as_version=4)
    parts = [_part(cell) for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    body = "\n".join(part for part in parts if part)
    if not body:
        return None
    title = re.search(r"<h2[^>]*>(.*?)</h2>", body, re.S)
    anchor = f"chapter-{re.sub(r'[^a-z0-9]+', '-', task.lower())}"
    return {"anchor": anchor, "title": re.sub(r"<[^>]+>|¶", "", title[1]).strip() if title else task, "body": body}


def _part(cell):
    if cell.cell_type == "markdown":
        text = re.sub(r'<a class="anchor-link".*?</a>', "", markdown2html(cell.source))
        return re.sub(r'(<h\d) id="[^"]*"', r"\1", text)  # several notebooks have equal headings; ids must be unique
    return "\n".join(filter(None, (_output(output) for output in cell.get("outputs", []))))


def _output(output):
    if output.output_type == "stream":
        return ""  # progress bars and prints are for the person at the notebook
    data = output.get("data", {})
    if "text/html" in data:
        return data["text/html"]
    if "image/png" in data:
        return f'<figure><img alt="" src="data:image/png;base64,{data["image/png"].strip()}"></figure>'
    return f"<pre>{html.escape(data.get('text/plain', ''))}</pre>" if "text/plain" in data else ""
