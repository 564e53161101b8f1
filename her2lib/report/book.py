"""What a notebook hands to the report: numbers that carry their ids, sentences, tables, figures."""

import base64
import html
import re

import pandas as pd

from her2lib import plots
from her2lib.files import write_bytes, write_table
from her2lib.stats.intervals import Estimate
from her2lib.study import results

COLUMNS = [
    "id",
    "question",
    "set",
    "run",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "sample",
    "source",
    "note",
    "as_percent",
]


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

    def add(self, table, *, question="", subset="", run="", source=""):
        """dict metric -> id after keeping a tidy table (metric, value, low, high, n, groups …), or {metric: Estimate}, in numbers.csv."""
        if isinstance(table, dict):
            table = pd.DataFrame(
                [{"metric": metric, **vars(estimate)} for metric, estimate in table.items()]
            )
        ids = {}
        for row in table.to_dict("records"):
            known = {
                "question": question or self.notebook,
                "set": subset,
                "run": run,
                "source": source,
                "note": "",
                "as_percent": False,
            }
            row = {**known, **{key: value for key, value in row.items() if key in COLUMNS}}
            row["id"] = ids[row["metric"]] = "/".join(
                str(part)
                for part in (self.notebook[:2], row["set"], row["run"], row["metric"])
                if str(part)
            )
            self.rows[row["id"]] = row
        write_table(self.file, pd.DataFrame(self.rows.values(), columns=COLUMNS))
        return ids

    def say(self, text, **numbers):
        """Html of a paragraph; {name} is replaced by the number whose id is given, other values are shown as text."""
        return Html(f"<p>{self._filled(text, numbers)}</p>")

    def table(self, ids, *, rows, caption, head=""):
        """Html table: rows maps a row's name to the ids (or texts) of its cells; ids names the columns."""
        body = []
        for name, cells in rows.items():
            shown = [
                number(self.rows[cell], short=True) if cell in self.rows else html.escape(str(cell))
                for cell in cells
            ]
            body.append(
                f"<tr><th>{html.escape(str(name))}</th>"
                + "".join(f"<td>{cell}</td>" for cell in shown)
                + "</tr>"
            )
        top = "".join(f"<th>{html.escape(str(column))}</th>" for column in (head, *ids))
        return Html(
            f"<figure class=table><table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def figure(self, figure, name, caption, *, photo=False, **numbers):
        """Html figure with its caption; also written to figures/ at 300 dpi and, when it is no photograph, as SVG."""
        start = (
            self.notebook[:2] if self.notebook[:2].isdigit() else self.notebook
        )  # runs of one network have figures of one name
        stem = f"{start}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}"
        kinds = ("jpeg",) if photo else ("png", "svg")
        for kind in kinds:
            write_bytes(
                self.study.figures / f"{stem}.{kind.replace('jpeg', 'jpg')}",
                plots.image_bytes(figure, kind=kind, dpi=300),
            )
        source = f"data:image/{kinds[0]};base64,{base64.b64encode(plots.image_bytes(figure, kind=kinds[0])).decode()}"
        plots.close(figure)
        alt = html.escape(re.sub(r"\{\w+\}", "", caption), quote=True)
        return Html(
            f'<figure><img alt="{alt}" src="{source}"><figcaption>{self._filled(caption, numbers)}</figcaption></figure>'
        )

    def _filled(self, text, numbers):
        shown = {
            key: number(self.rows[value]) if value in self.rows else html.escape(str(value))
            for key, value in numbers.items()
        }
        return html.escape(text, quote=False).format(**shown)


def number(row, *, short=False):
    """Html span of one row of numbers.csv; the text is Estimate.text(), cut before n when short."""
    keys = ("value", "low", "high", "n", "sample", "note", "as_percent")
    text = Estimate(**{key: row[key] for key in keys}).text()
    if short and not text.startswith("not estimable"):
        text = re.sub(r"(: [^;]*)?; n = .*\)$", ")", text, flags=re.S)
    title = html.escape(str(row["note"] or row["metric"]), quote=True)
    return Html(
        f'<span class=number data-number="{html.escape(row["id"], quote=True)}" title="{title}">{html.escape(text)}</span>'
    )


def html_table(table, *, caption="", columns=None):
    """Html table of plain text cells (file names, settings, findings), every cell escaped."""
    shown = table if columns is None else table[columns]
    body = shown.to_html(
        index=False, escape=True, border=0, na_rep="", float_format=lambda value: f"{value:.4g}"
    )
    return Html(
        f"<figure class=table>{body.replace(chr(10), '')}<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def verdict_sentence(record):
    """Html: whether this run collapsed, and how much its validation curve fluctuates (1 = to and fro over its whole range each epoch)."""
    why = record["verdict"]
    said = (
        f"<span class=collapsed>COLLAPSED: {html.escape(why)}.</span>"
        if why
        else "This run did not collapse."
    )
    return Html(
        f"<p>{said} Mean change of validation accuracy from epoch to epoch: {record['fluctuation']:.2f} of its range.</p>"
    )


def forest_table(book, ids, *, names):
    """DataFrame (name, value, low, high, null) of numbers by id, as plots.forest draws them; nulls are grey."""
    rows = [
        {**book.rows[id_], "name": name, "null": results.is_null(name)}
        for id_, name in zip(ids, names, strict=True)
    ]
    return pd.DataFrame(rows)[["name", "value", "low", "high", "null"]]
