"""Pages of maps: every number is kept with its source, every table in its file."""

import numpy as np
import pandas as pd
import pytest
from finished_runs import texts
from made_panel import made_panel

from her2lib.pages import map_panel as panels
from her2lib.pages import map_pictures
from her2lib.report.book import Book
from her2lib.study.claims import read_claims


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield made_panel(tmp_path_factory.mktemp("pages"), monkeypatch)


@pytest.fixture
def book(panel):
    return Book(panel.study, "08_interpretability")


def figures(panel):
    return {file.name for file in panel.study.figures.iterdir()}


def test_pictures_are_kept_as_figures_with_the_names_of_their_networks(book, panel):
    map_pictures.steps_figure(book, panel)
    map_pictures.trap_figures(book, panel)
    map_pictures.case_figures(book, panel)
    map_pictures.row_figure(book, panel)
    map_pictures.depth_figure(book, panel, panels.depth_table(panel))
    names = {"08_steps.jpg", "08_row.jpg", "08_bands.png", "08_trap_ViT-Tiny.jpg"}
    names |= {"08_cases_ResNet18.jpg", "08_cases_ViT-Tiny.jpg"}
    assert names <= figures(panel)
    zero = book.rows["08/test/ViT-Tiny/largest gradient behind the last block"]
    assert zero["value"] == 0
    assert zero["n"] == 4


def test_means_stand_in_a_table_and_in_a_file_that_can_be_recounted(book, panel):
    focused = panels.focus_table(panel)
    columns = {"entropy": "scatter", "share_glass": "on glass"}
    page = map_pictures.means_table(
        book, panel, focused, columns, file="focus.csv", head="mean", caption="of four"
    )
    assert texts(page)[:3] == ["mean", "scatter", "on glass"]
    assert texts(page)[-1] == "of four"
    row = book.rows["08/test/ResNet18, grad-cam/entropy"]
    assert row["source"] == "runs/08_interpretability/focus.csv"
    stored = pd.read_csv(book.file.parent / "focus.csv")
    entropy = stored.loc[stored["label"] == "ResNet18, grad-cam", "entropy"]
    assert row["value"] == pytest.approx(entropy.mean())


def test_likeness_has_a_column_for_every_change(book, panel):
    page = map_pictures.similarity_means(book, panel, panels.similarity_table(panel))
    assert "another patch" in texts(page)
    assert "08/test/ViT-Tiny, relevance/likeness, another method" in book.rows
    assert (book.file.parent / "likeness.csv").is_file()


def test_ablations_give_accuracy_and_kappa_of_every_network(book, panel):
    table = panels.ablation_table(panel)
    page = map_pictures.ablation_means(book, panel, table)
    assert "tiles shuffled" in texts(page)
    intact = table[table["kind"] == "intact"]
    row = book.rows["08/test/intact/accuracy, ResNet18"]
    assert row["value"] == pytest.approx(np.mean(intact["ResNet18"] == intact["truth"]))
    assert "08/test/intact/kappa, ViT-Tiny" in book.rows


def test_attention_has_a_figure_and_the_first_and_last_layer_in_a_table(book, panel):
    table = panels.attention_table(panel)
    page = map_pictures.attention_figures(book, panel, table)
    assert "It began from random weights" in page
    assert "08_attention_ViT-Tiny.png" in figures(panel)
    rows = texts(map_pictures.attention_means(book, panel, table))
    assert "ViT-Tiny, trained, layer 1" in rows
    assert "ViT-Tiny, trained, layer 12" in rows
    assert "ViT-Tiny, trained, layer 2" not in rows
    stored = pd.read_csv(book.file.parent / f"attention_{panel.runs['ViT-Tiny']}.csv")
    assert len(stored) == len(table)
    assert "name" not in stored


def test_claims_keep_their_verdict_and_the_value_of_every_patch(book, panel):
    verdicts = panels.judge(
        panel,
        read_claims(),
        focused=panels.focus_table(panel),
        attention=panels.attention_table(panel),
        ablations=panels.ablation_table(panel),
    )
    page = map_pictures.claims_table(book, panel, verdicts)
    assert texts(page).count("UNDECIDED") == 9
    row = book.rows["08/test/hybrid/edge share less its null"]
    assert row["question"] == "Hybrid looks at edges again"
    stored = pd.read_csv(book.file.parent / "claims.csv")
    assert len(stored) == 9 * 4
    assert set(stored["number"]) <= set(book.rows)
