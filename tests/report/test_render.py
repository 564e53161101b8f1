"""The report as files: one closed page in reading order, and what lies beside it; nothing runs."""

import os
import re
from pathlib import Path

import html5lib
import nbformat
import pandas as pd
import pytest

from her2lib import files
from her2lib.report import book, printing, render
from her2lib.report import executed as executed_
from her2lib.study import config

NASTY = "<script>alert(1)</script>"
ADDRESS = re.compile(r"""(?:src|href|url\()\s*=?\s*["']?\s*(?:https?:)?//""", re.I)
TABLE = (
    "<figure class=table><table><thead><tr><th></th><th>0|1+ &amp; more</th></tr></thead>"
    "<tbody><tr><th>A_1</th><td>50 %</td></tr></tbody>"
    "</table><figcaption>Shares & such</figcaption></figure>"
)


def executed(title, *outputs, code="secret = 1"):
    """Notebook with a report heading, prose that is not for the report, and one executed cell."""
    v4 = nbformat.v4
    return v4.new_notebook(
        cells=[
            v4.new_markdown_cell(f"## {title}", metadata={"tags": ["report"]}),
            v4.new_markdown_cell("for the person at the notebook"),
            v4.new_code_cell(code, metadata={"tags": ["report"]}, outputs=list(outputs)),
        ]
    )


def shown(**data):
    return nbformat.v4.new_output(
        "display_data", {key.replace("_", "/"): value for key, value in data.items()}
    )


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A study with two executed notebooks, one that failed, and a finished run; no browser."""
    monkeypatch.setattr(files, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(executed_, "ROOT", tmp_path)  # no source notebooks
    monkeypatch.setattr(printing, "BROWSERS", ())
    loaded = config.load_study("smoke")
    printed = nbformat.v4.new_output("stream", text="10%\r100% progress bar")
    notebooks = {
        "10_report/notebook": executed("First page", shown(text_plain=NASTY), printed),
        "01_data_exploration/notebook": executed("The patches", shown(text_html=TABLE + NASTY)),
        "06_compare_models/failed": executed(
            "Compared",
            nbformat.v4.new_output("error", ename="E", evalue="v", traceback=["\x1b[31mboom"]),
        ),
    }
    for name, notebook in notebooks.items():
        file = loaded.folder / "runs" / f"{name}.ipynb"
        files.make_folder(file.parent)
        nbformat.write(notebook, file)
    files.write_bytes(loaded.figures / "06_forest.png", b"")
    files.write_bytes(loaded.figures / "06_forest.svg", b"")
    return loaded


def page(loaded):
    return render.render_report(loaded).read_text(encoding="utf-8")


def test_first_page_first_without_code_or_progress(made):
    text = page(made)
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "First page",
        "The patches",
        "What lies beside this report",
    ]
    for absent in ("secret", "progress bar", "for the person"):
        assert absent not in text
    assert "Research use only" in text


def test_page_appendix_and_tables_are_closed_and_nothing_in_them_runs(made):
    page(made)
    for file in (
        made.folder / "report.html",
        made.folder / "appendix.html",
        *(made.folder / "tables").glob("*.html"),
    ):
        text = file.read_text(encoding="utf-8")
        assert not ADDRESS.search(text)
        assert "http" not in re.sub(r'http-equiv="[^"]*"', "", text)
        assert "<script" not in text
        html5lib.HTMLParser(strict=True).parse(text)
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
        assert file.parent.name == "tables" or "default-src 'none'" in text
    assert "&lt;script&gt;alert(1)" in (made.folder / "appendix.html").read_text()


def test_every_relative_link_of_the_report_leads_to_a_file(made):
    links = re.findall(r'href="([^#"][^"]*)"', page(made))
    assert {
        "appendix.html",
        "numbers.csv",
        "figures/06_forest.png",
        "figures/06_forest.svg",
        "drafts/claim.md",
    } <= set(links)
    for link in links:
        assert (made.folder / link).is_file(), link


def test_the_appendix_leaves_nothing_out(made):
    page(made)
    text = (made.folder / "appendix.html").read_text()
    assert text.count("<details") == 3
    for word in (
        "for the person at the notebook",
        "secret",
        "100% progress bar",
        "boom",
        "failed; up to the error",
    ):
        assert word in text
    assert "\x1b" not in text
    assert "10%" not in text.replace("100%", "")  # of a progress bar the last state


def test_tables_for_latex_and_word_say_what_the_page_says(made):
    page(made)
    (tex,), (word,) = (list((made.folder / "tables").glob(kind)) for kind in ("*.tex", "*.html"))
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"A\_1 & 50 \% \\",
        r"\caption{Shares \& such}",
        r"0|1+ \& more",
    ):
        assert part in tex.read_text()
    (table,) = pd.read_html(str(word), flavor="html5lib")
    assert table.iloc[0].tolist() == ["A_1", "50 %"]
    assert "border-top" in word.read_text()  # looks lie in the cells, which Word keeps


def test_without_a_browser_one_sentence_says_how_and_the_report_stands(made, capsys):
    text = page(made)
    assert "choose Print and save as PDF" in text
    assert "no Chromium is on the PATH" in capsys.readouterr().out
    assert 'href="report.pdf"' not in text


def test_a_browser_that_fails_does_not_cost_the_report(made, tmp_path, monkeypatch, capsys):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(printing, "BROWSERS", ("chromium",))
    files.write_bytes(made.folder / "report.pdf", b"%PDF- of yesterday")
    assert "chromium ended with 3" in page(made)
    assert not (made.folder / "report.pdf").exists()
    assert not list(made.folder.glob("print-*"))


def test_numbers_keep_their_ids_so_that_the_report_can_be_audited(made):
    span = book.number(
        {
            "id": '06/a "b" & c',
            "value": 0.5,
            "low": 0.4,
            "high": 0.6,
            "n": 3,
            "sample": "patches",
            "note": "",
            "metric": "m",
            "as_percent": True,
        }
    )
    made_ = executed_.output(shown(text_html=f"<p>{span}</p>"))
    assert made_ == f"<p>{span}</p>".replace("class=number", 'class="number"')


def test_a_report_that_is_too_large_says_what_to_do(made, monkeypatch, capsys):
    monkeypatch.setattr(render, "LIMIT_BYTES", 1000)
    page(made)
    assert "lower gallery under [maps]" in capsys.readouterr().out


def test_without_an_executed_notebook_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    with pytest.raises(ValueError, match="her2 run smoke"):
        render.render_report(config.load_study("smoke"))
    assert not Path(tmp_path / "smoke" / "report.html").exists()
