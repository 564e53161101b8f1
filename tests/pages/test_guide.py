"""The newcomer's page: the machine, every notebook and study, phantoms with what they show."""

import json
import types

import pytest
import torch

from her2lib.files import ROOT
from her2lib.pages import guide
from her2lib.study import config


def test_the_machine_is_named_with_its_threads(monkeypatch):
    monkeypatch.setattr(guide, "choose_precision", lambda device: (None, f"why on {device}"))
    shown = guide.machine_sentence("cpu")
    assert shown.startswith("<p><strong>cpu</strong>, ")
    assert f"{torch.get_num_threads()} threads; why on cpu" in shown


def test_notebooks_are_listed_by_their_titles_in_reading_order(tmp_path, monkeypatch):
    monkeypatch.setattr(guide, "ROOT", tmp_path)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for number in (3, 1, 5, 2, 4):
        source = [f"# Title {number}\n", "\n", "Text."]
        notebook = {"cells": [{"source": source}, {"source": "# Not this"}]}
        (folder / f"0{number}_a.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    titles = "".join(f"<li>Title {number}</li>" for number in range(1, 6))
    assert guide.notebook_list() == f"<ul>{titles}</ul>"


def test_a_title_may_stand_in_a_cell_of_one_string(tmp_path, monkeypatch):
    monkeypatch.setattr(guide, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    notebook = {"cells": [{"source": "# First of all\n\nText."}]}
    (tmp_path / "notebooks" / "01_a.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    assert guide.notebook_list() == "<ul><li>First of all</li></ul>"


def test_every_notebook_of_the_project_has_a_title():
    shown = guide.notebook_list()
    assert shown.count("<li>") == len(list((ROOT / "notebooks").glob("*.ipynb")))
    assert "<li></li>" not in shown


def test_every_study_stands_with_its_question_and_number_of_runs():
    table = guide.study_table().set_index("study")
    assert list(table) == ["question", "runs"]
    assert table.index.tolist() == [file.stem for file in config.study_files()]
    smoke = config.load_study("smoke")
    assert table.loc["smoke"].tolist() == [smoke.question, 4]
    assert (table["question"] != "").all()


def test_a_phantom_is_shown_with_its_score_and_the_rule():
    phantoms = [types.SimpleNamespace(score=score) for score in (0, 3)]
    images = torch.zeros((2, 3, 8, 8), dtype=torch.uint8)
    figure = guide.phantom_gallery(phantoms, images, torch.tensor([0.004, 0.256]))
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    assert titles[:2] == ["phantom, score 0, rule 0.00", "phantom, score 3+, rule 0.26"]


def test_each_phantom_needs_its_value_of_the_rule():
    phantoms = [types.SimpleNamespace(score=0)]
    images = torch.zeros((1, 3, 8, 8), dtype=torch.uint8)
    with pytest.raises(ValueError, match="zip"):
        guide.phantom_gallery(phantoms, images, torch.zeros(2))
