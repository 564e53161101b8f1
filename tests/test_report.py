"""The report: one closed file, in reading order, without code; it names what failed and what collapsed."""

import json
import re

import html5lib
import nbformat
import pandas as pd
import pytest

from her2lib import book, report, study
from her2lib.intervals import Estimate

NASTY = "<script>alert(1)</script>"
ADDRESS = re.compile(r"""(?:src|href|url\()\s*=?\s*["']?\s*(?:https?:)?//""", re.I)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A study with two executed notebooks, one finished and collapsed run, one failure."""
    monkeypatch.setattr(study, "REPORTS", tmp_path)
    loaded = study.load("smoke")
    for task, title in (("10_report", "First page"), ("01_data_exploration", "The patches")):
        cells = [nbformat.v4.new_markdown_cell(f"## {title}", metadata={"tags": ["report"]}),
                 nbformat.v4.new_markdown_cell("for the person at the notebook"),
                 nbformat.v4.new_code_cell("secret = 1", metadata={"tags": ["report"]},
                                           outputs=[nbformat.v4.new_output("display_data", {"text/plain": NASTY}),
                                                    nbformat.v4.new_output("stream", text="progress bar")])]
        folder = study.made(loaded.folder_of(task))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebook.ipynb")
    run = loaded.run()["run"]
    study.write_json(loaded.folder_of(run) / "run.json", {"complete": True, "verdict": "answers 2+ only", "fingerprints": {"data": "d"},
                                                          "parameters": loaded.run(), "fluctuation": 0.5, "sets": {}})
    study.write_json(loaded.folder / "runs" / "failures.json", [{"task": "vit", "error": f"boom {NASTY}", "state": "failed"}])
    return loaded


def page(loaded):
    return report.render(loaded).read_text(encoding="utf-8")


def test_first_page_first_without_code_or_progress(made):
    text = page(made)
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["First page", "The patches"]
    for absent in ("secret", "progress bar", "for the person"):
        assert absent not in text
    assert "Research use only" in text


def test_it_is_closed_and_nothing_in_it_runs(made):
    text = page(made)
    assert not ADDRESS.search(text)
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", text)
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert len(text) < 8_000_000


def test_it_is_valid_html_with_unique_anchors(made):
    text = page(made)
    html5lib.HTMLParser(strict=True).parse(text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_failures_and_collapsed_runs_are_named_as_text(made):
    said = report.failures(made) + report.collapsed_runs(made, book.records(made))
    assert "vit" in said
    assert "&lt;script&gt;" in said
    assert "COLLAPSED: answers 2+ only" in said


def test_numbers_of_all_notebooks_stand_in_one_table(made):
    first = book.Book(made, "06_compare_models")
    first.add({"accuracy": Estimate(0.5, 0.4, 0.6, 10, "patches", share=True)}, set="test", run="ResNet18")
    for null in ("accuracy",):
        first.add({null: Estimate(0.2, 0.1, 0.3, 10, "patches", share=True)}, set="test", run="DAB rule")
    first.add({"kappa quadratic": Estimate(0.5, 0.4, 0.6, 10, "patches")}, set="test", run="ResNet18")
    table = report.all_numbers(made)
    assert table["id"].tolist() == ["06/test/ResNet18/accuracy", "06/test/DAB rule/accuracy", "06/test/ResNet18/kappa quadratic"]
    said = report.answer(book.Book(made, "10_report"), table, made)
    assert "above every null" in said
    assert said.count("data-number=") == 3
    page(made)
    assert len(pd.read_csv(made.folder / "numbers.csv")) == 3
    assert json.loads((made.folder / "receipt.json").read_text())["environment"]["torch"]


def test_an_answer_that_does_not_clear_the_nulls_says_so(made):
    first = book.Book(made, "06_compare_models")
    for name, low in (("ResNet18", 0.2), ("DAB rule", 0.1)):
        first.add({metric: Estimate(0.5, low, 0.9, 10, "patches") for metric in ("accuracy", "kappa quadratic")}, set="test", run=name)
    assert "does not lie clear above: DAB rule" in report.answer(book.Book(made, "10_report"), report.all_numbers(made), made)


def test_without_an_executed_notebook_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "REPORTS", tmp_path)
    with pytest.raises(ValueError, match="her2 run smoke"):
        report.render(study.load("smoke"))
    assert not (tmp_path / "smoke" / "report.html").exists()
