"""Every table of the report as files for a manuscript: LaTeX (booktabs) and HTML for Word."""

import re

import pandas as pd

from her2lib.files import make_folder, write_text
from her2lib.report.executed import TEMPLATES

WIDE = 96  # characters of a table row that fit across a page; wider columns are wrapped
NARROWEST = 6  # characters of a wrapped column
BROADEST = 40
PREAMBLE = r"% \usepackage{array, booktabs} \usepackage[T1]{fontenc}"


def write_tables(folder, chapters):
    """list of dict (title, caption, tex, word: paths) after writing every table of the chapters."""
    from bs4 import BeautifulSoup

    folder = make_folder(folder)
    for old in [*folder.glob("*.tex"), *folder.glob("*.html")]:
        old.unlink()  # a table that the report no longer has
    listing = []
    for chapter in chapters:
        soup = BeautifulSoup(chapter["body"], "html.parser")
        for figure in soup.select("figure.table"):
            number = len(listing) + 1
            listing.append(_write_one(folder, figure, number, otherwise=chapter["title"]))
    return listing


def latex(table, caption, *, label=""):
    """str, a LaTeX table with booktabs rules, all escaped; columns wrap where a row is too wide."""
    body = table.to_latex(
        index=False,
        escape=True,
        caption=_escaped(caption),
        label=f"tab:{label}",
        column_format=_column_format(table),
        position="htbp",
    )
    body = body.replace("[htbp]\n", "[htbp]\n\\centering\\small\n", 1)
    return f"{PREAMBLE}\n{body}"


def slug(text):
    """str of small letters, digits and dashes, for anchors and file names."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _write_one(folder, figure, number, *, otherwise):
    """dict of one table of the report, after writing it; its title is the heading above it."""
    rows = []
    for row in figure.select("tr"):
        rows.append([cell.get_text(" ", strip=True) for cell in row.select("th, td")])
    caption = ""
    if figure.figcaption:
        caption = figure.figcaption.get_text(" ", strip=True)
    heading = figure.find_previous(["h2", "h3"])
    title = otherwise
    if heading:
        title = heading.get_text(" ", strip=True)
    name = f"{number:02}_{slug(title)[:40].strip('-')}"
    table = pd.DataFrame(rows[1:], columns=rows[0])
    page = TEMPLATES.get_template("table.html")
    for_word = page.render(head=rows[0], rows=rows[1:], caption=caption)
    return {
        "title": title,
        "caption": caption,
        "tex": write_text(folder / f"{name}.tex", latex(table, caption, label=name)),
        "word": write_text(folder / f"{name}.html", for_word),
    }


def _column_format(table):
    """str, "lll", or paragraphs of fractions of the line where the widest row does not fit."""
    widths = []
    for position, name in enumerate(table.columns):
        cells = [str(name), *table.iloc[:, position].astype(str)]
        widths.append(max(len(cell) for cell in cells))
    if sum(widths) <= WIDE:
        return "l" * len(widths)
    bounded = [max(NARROWEST, min(width, BROADEST)) for width in widths]
    columns = []
    for width in bounded:
        fraction = 0.9 * width / sum(bounded)
        columns.append(rf">{{\raggedright\arraybackslash}}p{{{fraction:.3f}\linewidth}}")
    return "".join(columns)


def _escaped(text):
    from nbconvert.filters import escape_latex  # pandas escapes cells and heads, not the caption

    return escape_latex(text)
