"""What a notebook hands to the report: numbers that carry their ids, sentences, tables, figures."""

import base64
import html
import re

import pandas as pd

from her2lib import plots
from her2lib.files import write_bytes, write_table
from her2lib.stats.intervals import Estimate
from her2lib.study import results

# of numbers.csv: an Estimate, and where it belongs
ESTIMATE = ["value", "low", "high", "n", "sample", "note", "as_percent"]
COLUMNS = ["id", "question", "set", "run", "metric", *ESTIMATE[:5], "source", *ESTIMATE[5:]]


class Html(str):
    """A piece of the report that Jupyter shows as it will stand there."""

    def _repr_html_(self):
        return str(self)


class Book:
    """What one notebook hands to the report: numbers with ids, and what carries them.

    Every number that is added stands as a row in the notebook's numbers.csv; sentences, tables and
    captions name numbers by id, so that no number of the report is typed.
    """

    def __init__(self, study, notebook: str):
        self.study = study
        self.notebook = notebook
        self.file = study.folder_of(notebook) / "numbers.csv"
        self.rows: dict[str, dict] = {}
        write_table(self.file, pd.DataFrame(columns=COLUMNS))

    def add(self, table, *, question="", subset="", run="", source=""):
        """dict metric -> id of the numbers of a table, after keeping them in numbers.csv.

        table: one row per number (metric and the fields of Estimate), or {metric: Estimate};
        subset (train, val, test, external …), run and source are those of all its rows, unless a
        row names its own.
        """
        if isinstance(table, dict):
            rows = [{"metric": metric, **vars(estimate)} for metric, estimate in table.items()]
            table = pd.DataFrame(rows)
        usual = {
            "question": question or self.notebook,
            "set": subset,
            "run": run,
            "source": source,
            "note": "",
            "as_percent": False,
        }
        ids = {}
        for fields in table.to_dict("records"):
            row = usual | {key: value for key, value in fields.items() if key in COLUMNS}
            parts = (self.notebook[:2], row["set"], row["run"], row["metric"])
            row["id"] = "/".join(str(part) for part in parts if str(part))
            ids[row["metric"]] = row["id"]
            self.rows[row["id"]] = row
        write_table(self.file, pd.DataFrame(self.rows.values(), columns=COLUMNS))
        return ids

    def say(self, text, **numbers):
        """Html of a paragraph; {name} becomes the number whose id is given, or the text given."""
        return Html(f"<p>{self._filled(text, numbers)}</p>")

    def table(self, ids, *, rows, caption, head=""):
        """Html table: rows maps a row's name to ids (or texts) of cells; ids names columns."""
        top = "".join(f"<th>{_escaped(column)}</th>" for column in (head, *ids))
        lines = []
        for name, cells in rows.items():
            line = "".join(f"<td>{self._cell(cell)}</td>" for cell in cells)
            lines.append(f"<tr><th>{_escaped(name)}</th>{line}</tr>")
        return Html(
            f"<figure class=table><table><thead><tr>{top}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def figure(self, figure, name, caption, *, photo=False, **numbers):
        """Html figure with its caption; also in figures/ at 300 dpi, and as SVG if no photo."""
        kinds = ["jpeg"] if photo else ["png", "svg"]
        for kind in kinds:
            ending = kind.replace("jpeg", "jpg")
            file = self.study.figures / f"{self._figure_stem(name)}.{ending}"
            write_bytes(file, plots.image_bytes(figure, kind=kind, dpi=300))
        on_page = base64.b64encode(plots.image_bytes(figure, kind=kinds[0])).decode()
        plots.close(figure)
        alt = html.escape(re.sub(r"\{\w+\}", "", caption), quote=True)
        return Html(
            f'<figure><img alt="{alt}" src="data:image/{kinds[0]};base64,{on_page}">'
            f"<figcaption>{self._filled(caption, numbers)}</figcaption></figure>"
        )

    def _figure_stem(self, name):
        """str, a file name that begins with the notebook's number, or with the run."""
        # the notebook of a network draws for all its runs, so its number would not do
        start = self.notebook
        if start[:2].isdigit():
            start = start[:2]
        return f"{start}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}"

    def _cell(self, cell):
        if cell in self.rows:
            return number(self.rows[cell], short=True)
        return _escaped(cell)

    def _filled(self, text, numbers):
        """str, text with every {name} replaced by a number's span or by escaped text."""
        pieces = {}
        for name, value in numbers.items():
            pieces[name] = number(self.rows[value]) if value in self.rows else _escaped(value)
        return html.escape(text, quote=False).format(**pieces)


def number(row, *, short=False):
    """Html span of a row of numbers.csv: the sentence of its Estimate, cut before n when short."""
    text = Estimate(**{field: row[field] for field in ESTIMATE}).text()
    # the span of a table cell is short: its n stands in the caption
    if short and not text.startswith("not estimable"):
        text = re.sub(r"(: [^;]*)?; n = .*\)$", ")", text, flags=re.S)
    title = html.escape(str(row["note"] or row["metric"]), quote=True)
    id_ = html.escape(row["id"], quote=True)
    return Html(
        f'<span class=number data-number="{id_}" title="{title}">{html.escape(text)}</span>'
    )


def html_table(table: pd.DataFrame, *, caption: str = "", columns: list[str] | None = None) -> Html:
    """Html table of plain text cells (file names, settings, findings), every cell escaped."""
    if columns is not None:
        table = table[columns]
    body = table.to_html(
        index=False, escape=True, border=0, na_rep="", float_format="{:.4g}".format
    )
    body = body.replace("\n", "")
    caption = html.escape(caption)
    return Html(f"<figure class=table>{body}<figcaption>{caption}</figcaption></figure>")


def verdict_sentence(record):
    """Html: whether a run collapsed, and how much its validation curve fluctuates.

    1 is a curve that goes to and fro over its whole range in each epoch.
    """
    sentence = "This run did not collapse."
    if record["verdict"]:
        why = html.escape(record["verdict"])
        sentence = f"<span class=collapsed>COLLAPSED: {why}.</span>"
    return Html(
        f"<p>{sentence} Mean change of validation accuracy from epoch to epoch: "
        f"{record['fluctuation']:.2f} of its range.</p>"
    )


def forest_table(book, ids, *, names):
    """DataFrame (name, value, low, high, null) of numbers by id, as plots.forest draws them."""
    rows = []
    for id_, name in zip(ids, names, strict=True):
        rows.append({**book.rows[id_], "name": name, "null": results.is_null(name)})
    return pd.DataFrame(rows)[["name", "value", "low", "high", "null"]]


def _escaped(value):
    return html.escape(str(value))
