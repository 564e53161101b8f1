"""Panels: patches drawn by chance, maps beside their nulls, tables, and claims judged by them."""

import numpy as np
import pytest
import torch
from made_panel import made_panel

from her2lib.maps import attribution, focus
from her2lib.networks import checkpoint
from her2lib.pages import map_panel as panels
from her2lib.study.claims import read_claims


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield made_panel(tmp_path_factory.mktemp("panel"), monkeypatch)


def test_a_panel_holds_maps_of_every_network_and_their_values_placed_by_chance(panel):
    assert list(panel.networks) == ["ResNet18", "ViT-Tiny"]
    keys = [("ResNet18", "grad_cam"), ("ViT-Tiny", "grad_cam"), ("ViT-Tiny", "relevance")]
    assert list(panel.maps) == list(panel.by_chance) == keys
    for key in keys:
        values = panel.maps[key].flatten(1).sort(1).values
        assert torch.equal(panel.by_chance[key].flatten(1).sort(1).values, values)
    assert panel.followed == {"ResNet18": "grad_cam", "ViT-Tiny": "relevance"}
    assert panel.attentive == ["ViT-Tiny"]
    expected = attribution.relevance(
        panel.networks["ViT-Tiny"], panel.patches.images, panel.predicted["ViT-Tiny"]
    )
    assert torch.equal(panel.maps["ViT-Tiny", "relevance"], expected)


def test_its_patches_are_as_many_as_the_study_asks_for_and_know_their_truth(panel):
    patches = panel.patches
    assert len(patches.table) == len(patches.images) == 4
    assert patches.truth.tolist() == patches.table["score"].tolist()
    assert patches.scale == 1.5
    assert patches.sample == "patients"
    folder = panel.study.cohort_path / "truth"
    truth = focus.read_truth(folder, patches.table["name"], side_px=64)
    assert torch.equal(patches.masks["deciding"], truth["deciding"])
    assert panel.stands_on.startswith("n = 4 synthetic test patches; brackets: 95 % intervals")


def test_focus_has_a_row_for_each_map_and_for_its_null(panel):
    table = panels.focus_table(panel)
    assert len(table) == 3 * 2 * 4
    labels = table.loc[table["name"] == "ViT-Tiny", "label"].unique().tolist()
    assert labels == [
        "ViT-Tiny, grad-cam",
        "ViT-Tiny, grad-cam, placed by chance",
        "ViT-Tiny, relevance",
        "ViT-Tiny, relevance, placed by chance",
    ]
    of_map = table[table["label"] == "ViT-Tiny, relevance"]
    maps = panel.maps["ViT-Tiny", "relevance"]
    share = focus.mass_fraction(maps, panel.patches.masks["tumour"])
    assert np.allclose(of_map["share_tumour"], share, equal_nan=True)
    assert panels.focus_table(panel).equals(table)


def test_depth_is_told_in_one_unit_and_in_words(panel):
    table = panels.depth_table(panel)
    assert table["unit"].unique().tolist() == ["um"]
    assert set(table["depth"]) <= {"0-15", "15-30", "30-60", "60+"}


def test_attention_is_measured_untrained_and_trained(panel):
    table = panels.attention_table(panel)
    assert table["weights"].unique().tolist() == ["untrained", "trained"]
    assert table["name"].unique().tolist() == ["ViT-Tiny"]
    assert table["label"].iloc[0] == "ViT-Tiny, untrained, layer 1"


def test_faithfulness_and_likeness_stand_beside_their_nulls(panel):
    faithful = panels.faithfulness_table(panel)
    assert faithful.groupby("label").size().to_dict() == {
        "ResNet18, grad-cam": 4,
        "ResNet18, grad-cam, placed by chance": 4,
        "ViT-Tiny, relevance": 4,
        "ViT-Tiny, relevance, placed by chance": 4,
    }
    similar = panels.similarity_table(panel)
    assert "another patch" in set(similar["change"])
    assert "another method" in set(similar["change"])
    # this study has no second seed and nothing taught shuffled scores
    assert not {"another seed", "taught shuffled scores"} & set(similar["change"])


def test_deciding_cells_are_compared_with_maps_that_know_no_network(panel):
    table = panels.deciding_table(panel)
    labels = set(table["label"])
    assert {"oracle", "no network: dab", "ResNet18, grad-cam, placed by chance"} <= labels
    assert (table["area"] > 0).all()
    assert np.allclose(table.loc[table["label"] == "oracle", "mass"], 1)


def test_ablations_leave_the_intact_patches_as_they_were_scored(panel):
    table = panels.ablation_table(panel)
    intact = table[table["kind"] == "intact"]
    for name, predicted in panel.predicted.items():
        assert intact[name].tolist() == predicted.tolist()
    assert table.groupby("kind").size().eq(4).all()


def judged(panel):
    """{text: Verdict} of all claims of the study."""
    verdicts = panels.judge(
        panel,
        read_claims(),
        focused=panels.focus_table(panel),
        attention=panels.attention_table(panel),
        ablations=panels.ablation_table(panel),
    )
    return {verdict.claim.text: verdict for verdict in verdicts}


def test_a_claim_is_judged_by_the_rows_of_the_tables_and_needs_its_networks(panel):
    verdicts = judged(panel)
    assert len(verdicts) == 9
    hybrid = verdicts["Hybrid looks at edges again"]
    assert (hybrid.verdict, hybrid.why) == ("undecided", "this study trained no hybrid")
    assert np.isnan(hybrid.values).all()
    vit = verdicts["ViT loses focus, looks at background"]
    table = panels.focus_table(panel).set_index("label")["share_tumour"]
    expected = table["ViT-Tiny, relevance"].to_numpy()
    expected = expected - table["ViT-Tiny, relevance, placed by chance"].to_numpy()
    assert np.allclose(vit.values, expected, equal_nan=True)
    assert vit.verdict == "undecided"  # two or three patients decide nothing
    far = verdicts["ViT looks far away from its earliest layer on"]
    attention = panels.attention_table(panel).query("layer == 0 and patch == 0")
    by_weights = attention.groupby("weights")["distance_px"].mean()
    assert far.values[0] == pytest.approx(by_weights["trained"] - by_weights["untrained"])


def test_a_collapsed_network_cannot_testify(tmp_path, monkeypatch):
    panel = made_panel(tmp_path, monkeypatch, collapsed="resnet18")
    verdict = judged(panel)["Convolution keeps position (against ViT)"]
    assert (verdict.verdict, verdict.why) == ("undecided", "ResNet18 collapsed")


def test_a_second_run_of_one_name_becomes_another_seed(panel, monkeypatch):
    first = panel.runs["ResNet18"]
    names = {first: "ResNet18", "second": "ResNet18", panel.runs["ViT-Tiny"]: "ViT-Tiny"}
    monkeypatch.setattr(panels.results, "display_names", lambda study: names)
    monkeypatch.setattr(panels.results, "is_finished", lambda study, run: True)
    other = panel.networks["ResNet18"]
    monkeypatch.setattr(checkpoint, "load_run", lambda folder: (other, {}))
    table = panels.similarity_table(panel)
    seeds = table[table["change"] == "another seed"]
    assert seeds["label"].unique().tolist() == ["ResNet18, grad-cam"]
    assert np.allclose(seeds["spearman"].dropna(), 1)  # the same weights: the same map
