"""The report's words: what failed and what collapsed is named, published figures stand beside."""

import ast
import json
from pathlib import Path

import pandas as pd
import pytest

from her2lib import files
from her2lib.report import book, sections
from her2lib.stats.intervals import Estimate
from her2lib.study import config, results

NASTY = "<script>alert(1)</script>"
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "10_report.ipynb"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A study with one finished and collapsed run, one failure, and the tables of notebook 01."""
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    loaded = config.load_study("smoke")
    run, first = loaded.run(), loaded.folder_of("01_data_exploration")
    files.write_json(
        loaded.folder_of(run["run"]) / "run.json",
        {
            "complete": True,
            "verdict": "answers 2+ only",
            "fingerprints": {"data": "d"},
            "parameters": run,
            "fluctuation": 0.5,
            "sets": {},
            "device": "cpu",
            "precision": "float32",
            "recipe": {"epochs": 1},
            "seconds": 60,
        },
    )
    files.write_json(
        loaded.folder / "runs" / "failures.json",
        [{"task": "vit", "error": f"boom {NASTY}", "state": "failed"}],
    )
    files.write_json(first / "count.json", {"patches": 8, "slides": 2, "patients": 0})
    files.write_json(first / "notes.json", [f"Slides are {NASTY}."])
    return loaded


def first_page(loaded):
    """str, what the cells of notebook 10 that belong to the report show, executed in turn."""
    names, said = {}, []
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        tree = (
            ast.parse("".join(cell["source"]))
            if cell["cell_type"] == "code"
            else ast.Module([], [])
        )
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, NOTEBOOK.name, "exec"), names)
        if last and "report" in cell["metadata"].get("tags", []):
            said.append(eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names))
    return "\n".join(said)


def add(loaded, **accuracies):
    """None; accuracies of contestants on the test set, as notebook 06 keeps them."""
    kept = book.Book(loaded, "06_compare_models")
    for name, (value, low, high) in accuracies.items():
        found = {
            metric: Estimate(value, low, high, 10, "patches", as_percent=metric == "accuracy")
            for metric in ("accuracy", "kappa quadratic")
        }
        kept.add(found, subset="test", run=name.replace("_", " "))


def test_the_first_page_names_the_failed_and_the_collapsed_run(made):
    add(made, ResNet18=(0.5, 0.4, 0.6), DAB_rule=(0.2, 0.1, 0.3))
    said = first_page(made)
    for words in (
        "vit</span>: boom &lt;script&gt;",
        "COLLAPSED: answers 2+ only",
        "ResNet18 gave the true score to",
        "Slides are &lt;script&gt;",
        "Labels in doubt were not looked for",
        "these numbers say nothing about the published ones",
    ):
        assert words in said
    assert "<script>" not in said


def test_a_study_in_which_nothing_was_finished_still_has_a_first_page(made):
    (made.folder_of(made.run()["run"]) / "run.json").unlink()
    said = first_page(made)
    assert "No network has finished" in said
    assert "No published figure belongs" in said


def test_failures_and_collapsed_runs_are_named_as_text(made):
    said = sections.failures(made) + sections.collapsed_runs(made, results.run_records(made))
    assert "vit" in said
    assert "&lt;script&gt;" in said
    assert "COLLAPSED: answers 2+ only" in said


def test_numbers_of_all_notebooks_stand_in_one_table(made):
    first = book.Book(made, "06_compare_models")
    first.add(
        {"accuracy": Estimate(0.5, 0.4, 0.6, 10, "patches", as_percent=True)},
        subset="test",
        run="ResNet18",
    )
    for null in ("accuracy",):
        first.add(
            {null: Estimate(0.2, 0.1, 0.3, 10, "patches", as_percent=True)},
            subset="test",
            run="DAB rule",
        )
    first.add(
        {"kappa quadratic": Estimate(0.5, 0.4, 0.6, 10, "patches")}, subset="test", run="ResNet18"
    )
    table = sections.all_numbers(made)
    assert table["id"].tolist() == [
        "06/test/ResNet18/accuracy",
        "06/test/DAB rule/accuracy",
        "06/test/ResNet18/kappa quadratic",
    ]
    said = sections.answer(book.Book(made, "10_report"), table, made)
    assert "above every null" in said
    assert said.count("data-number=") == 3


def test_an_answer_that_does_not_clear_the_nulls_says_so(made):
    first = book.Book(made, "06_compare_models")
    for name, low in (("ResNet18", 0.2), ("DAB rule", 0.1)):
        first.add(
            {
                metric: Estimate(0.5, low, 0.9, 10, "patches")
                for metric in ("accuracy", "kappa quadratic")
            },
            subset="test",
            run=name,
        )
    assert "does not lie clear above: DAB rule" in sections.answer(
        book.Book(made, "10_report"), sections.all_numbers(made), made
    )


def test_published_figures_stand_only_beside_the_same_network_and_set(made):
    add(made, ResNet18=(0.5, 0.4, 0.6), DAB_rule=(0.2, 0.1, 0.3))
    said = sections.published(book.Book(made, "10_report"), made, sections.all_numbers(made))
    assert "86.1 %" in said
    assert 'data-number="06/test/ResNet18/accuracy"' in said
    for absent in ("85 %", "19 %", "53 %", "40.1 %"):  # validation, other networks, external
        assert absent not in said
    assert "synthetic" in said
    twice = sections.all_numbers(made)
    twice = pd.concat(
        [twice, twice.assign(id="93/" + twice["id"])], ignore_index=True
    )  # 93 says the same accuracy of the same run again
    assert sections.published(book.Book(made, "10_report"), made, twice) == said


def test_labels_in_doubt_come_from_notebook_09_when_there_are_any(made):
    file = made.folder_of("09_label_review") / "doubt.csv"
    files.write_table(
        file,
        pd.DataFrame(
            {
                "patch": [NASTY, *"abc"],
                "score": 1,
                "suggested": 3,
                "doubt": 0.98765,
                "path": "/secret",
                "kind": ["in doubt", "", "not visible here", "in doubt"],
            }
        ),
    )
    said = sections.doubt_rows(made, most=2)
    assert "The 2 most doubtful; 3 of 4 labels are in doubt" in said
    assert "<td>a</td>" not in said
    assert "<td>1+</td>      <td>3+</td>      <td>0.99</td>" in said
    assert "&lt;script&gt;" in said
    assert "/secret" not in said
    files.write_table(file, pd.DataFrame(columns=["patch", "kind"]))
    assert "No label of this study is in doubt" in sections.doubt_rows(made)


def test_a_name_is_known_by_its_axes_whatever_else_the_study_varies(made):
    name, axes = next(iter(sections.known_as(made).items()))
    assert name.startswith("ResNet18")
    assert "network=resnet18" in axes
    assert "seed" not in axes
