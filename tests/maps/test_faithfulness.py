"""Belief: removal against every order, randomisation, likeness, and the truth of phantoms."""

import dataclasses
import functools
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import cohen_kappa_score
from torch import nn

from her2lib.data import patches, store
from her2lib.maps import attribution, faithfulness
from her2lib.networks import models, train
from her2lib.phantoms import dataset
from her2lib.stats import intervals


class Redness(nn.Module):
    """Four logits: 0, the weighted sum of red, 0, 0; its true map is weight times red."""

    network, layers, grid = "toy", 0, (2, 2)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))

    def forward(self, x):
        red = (x[:, 0] * F.interpolate(self.weight[None, None], x.shape[-2:])[0, 0]).mean((1, 2))
        return torch.stack([0 * red, red, 0 * red, 0 * red], 1)


def network(name, side_px=64):
    return models.create(name, side_px=side_px, weights="none", seed=3)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_true_map_has_the_lowest_deletion_and_the_highest_insertion_of_all_orders(monkeypatch):
    monkeypatch.setattr(faithfulness, "blurred", lambda x, sigma_px: torch.zeros_like(x))
    net = Redness()
    x = torch.ones(1, 3, 8, 8)
    orders = torch.tensor(list(permutations(range(4))), dtype=torch.float32).reshape(24, 2, 2)
    batch = x.expand(24, -1, -1, -1)
    deleted = faithfulness.area(faithfulness.deletion(net, batch, maps=orders, score=1, steps=4))
    inserted = faithfulness.area(faithfulness.insertion(net, batch, maps=orders, score=1, steps=4))
    true = net.weight.detach()[None]
    deleted_by_truth = faithfulness.deletion(net, x, maps=true, score=1, steps=4)
    assert faithfulness.area(deleted_by_truth) == deleted.min() < deleted.max()
    inserted_by_truth = faithfulness.insertion(net, x, maps=true, score=1, steps=4)
    assert faithfulness.area(inserted_by_truth) == inserted.max() > inserted.min()
    # cells go in the order 3, 2, 1, -1, so the logit (a quarter of the sum) runs
    # 5/4, 2/4, 0, -1/4, 0
    logits = torch.tensor([5, 2, 0, -1, 0]) / 4
    assert torch.allclose(deleted_by_truth[0], logits.exp() / (3 + logits.exp()))


def test_curves_start_and_end_where_they_must():
    net, x = network("vit_tiny"), noise(2, 3, 64, 64)
    maps, shown = noise(2, 4, 4), net(x).softmax(1)[:, 2].detach()
    for baseline in ("blur", "tokens"):
        deleted = faithfulness.deletion(net, x, maps=maps, score=2, steps=4, baseline=baseline)
        inserted = faithfulness.insertion(net, x, maps=maps, score=2, steps=4, baseline=baseline)
        assert torch.allclose(deleted[:, 0], shown, atol=1e-5)
        assert torch.allclose(inserted[:, -1], shown, atol=1e-5)
        assert torch.allclose(deleted[:, -1], inserted[:, 0], atol=1e-5)
        assert not torch.allclose(deleted[:, 0], deleted[:, -1], atol=1e-3)
    assert faithfulness.area(torch.linspace(0, 1, 5)[None]).item() == pytest.approx(0.5)


def test_dropped_tokens_are_not_seen_at_all():
    net, x, maps = network("hybrid", 96), noise(1, 3, 96, 96), noise(1, 3, 3)
    curve = faithfulness.insertion(net, x, maps=maps, score="expected", steps=3, baseline="tokens")
    vit, order = net.backbone, maps.flatten().argsort(descending=True)
    tokens = vit._pos_embed(vit.patch_embed(x))
    for step in range(4):
        left = torch.cat([tokens[:, :1], tokens[:, 1:][:, order[: 3 * step]]], 1)
        p = vit.forward_head(vit.norm(vit.blocks(left))).softmax(1)
        assert torch.allclose(curve[:, step], p @ torch.arange(4.0), atol=1e-5)


def test_a_cnn_has_no_tokens_to_drop_and_a_wrong_baseline_is_named():
    net, x = network("resnet18"), noise(1, 3, 64, 64)
    with pytest.raises(ValueError, match="no tokens to drop: use baseline='blur'"):
        faithfulness.deletion(net, x, maps=noise(1, 2, 2), score=1, baseline="tokens")
    with pytest.raises(ValueError, match="'black' is not a baseline"):
        faithfulness.deletion(net, x, maps=noise(1, 2, 2), score=1, baseline="black")


def test_road_prefers_the_true_map_and_repeats_itself():
    net, x = Redness(), 0.5 + 0.5 * noise(3, 3, 32, 32)
    x[:, :, 16:, :16] += 3  # the cell that weighs most differs from what its neighbours would say
    true = (net.weight.detach() * F.adaptive_avg_pool2d(x[:, 0], 2)).clone()
    table = faithfulness.road(net, x, maps=true, score=1, shares=(0.2, 0.4))
    assert table.columns.tolist() == ["patch", "share", "least", "most", "road"]
    assert len(table) == 6
    assert (
        table.road.mean()
        > 0.02
        > faithfulness.road(net, x, maps=-true, score=1, shares=(0.2, 0.4)).road.mean()
    )
    alone = faithfulness.road(net, x[1:2], maps=true[1:2], score=1, shares=(0.2, 0.4))
    assert np.allclose(alone.road, table[table.patch == 1].road, atol=1e-5)


def test_randomising_shuffles_a_copy_from_the_output_to_the_input():
    net = network("resnet18")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    changed = []
    for _, _, copy in faithfulness.randomised_copies(net, stages=4):
        changed.append(
            {
                name
                for name, value in copy.state_dict().items()
                if not torch.equal(before[name], value)
            }
        )
    first = [
        state["backbone.conv1.weight"].flatten().sort().values
        for state in (copy.state_dict(), before)
    ]
    assert torch.equal(*first)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert "backbone.fc.weight" in changed[0]
    assert "backbone.conv1.weight" not in changed[2]
    assert changed[0] < changed[1] < changed[2] < changed[3]
    assert "backbone.conv1.weight" in changed[3]


def test_sanity_starts_at_one_and_a_map_that_ignores_the_network_never_falls():
    net, x = network("vit_tiny"), noise(2, 3, 64, 64)
    table = faithfulness.sanity(net, x, score=1, stages=3)
    assert table[table.stage == 0].spearman.tolist() == pytest.approx([1, 1])
    assert sorted(set(table.stage)) == [0, 1, 2, 3]
    assert table[table.stage == 3].spearman.mean() < 0.7
    assert faithfulness.sanity(
        net, x, score=1, method=attribution.edge_map, stages=2
    ).spearman.min() == pytest.approx(1)


def test_likeness_of_maps():
    maps = noise(2, 7, 7)
    same = faithfulness.map_similarity(maps, 3 * maps + 1)
    turned = faithfulness.map_similarity(maps, -maps)
    assert same.spearman.tolist() == pytest.approx([1, 1])
    assert same.overlap.tolist() == [1, 1]
    assert turned.spearman.tolist() == pytest.approx([-1, -1])
    assert turned.overlap.tolist() == [0, 0]
    assert faithfulness.map_similarity(maps, torch.ones(2, 7, 7)).spearman.isna().all()
    finer = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert faithfulness.map_similarity(maps, finer).spearman.tolist() == pytest.approx([1, 1])


def test_a_map_of_the_picture_alone_moves_with_the_picture():
    net = network("resnet18")
    images = (255 * F.interpolate(noise(2, 3, 9, 9), (64, 64), mode="bilinear")).to(torch.uint8)
    table = faithfulness.stability(net, images, score=1, method=attribution.dab_map)
    assert table[table.change == "shift"].spearman.min() > 0.999
    assert table[table.change == "stain"].spearman.between(0.5, 1).all()


def test_belief_is_the_three_measures_patch_by_patch():
    net, x, maps = network("resnet18"), noise(2, 3, 64, 64), noise(2, 2, 2)
    table = faithfulness.faithfulness_scores(net, x, maps=maps, score=2, steps=2, shares=(0.3, 0.6))
    assert table.columns.tolist() == ["patch", "deletion", "insertion", "road"]
    assert np.allclose(
        table.deletion,
        faithfulness.area(faithfulness.deletion(net, x, maps=maps, score=2, steps=2)),
    )
    assert np.allclose(
        table.insertion,
        faithfulness.area(faithfulness.insertion(net, x, maps=maps, score=2, steps=2)),
    )
    road = faithfulness.road(net, x, maps=maps, score=2, shares=(0.3, 0.6))
    assert np.allclose(table.road, road.groupby("patch").road.mean())


def test_likeness_has_another_patch_as_its_null_and_ends_at_weights_that_know_nothing():
    net = network("vit_tiny")
    images = (255 * noise(4, 3, 64, 64)).to(torch.uint8)
    table = faithfulness.similarity_under_change(net, images, score=1, stages=2)
    assert table.groupby("change").size().to_dict() == {
        "another patch": 4,
        "later half randomised": 4,
        "all weights randomised": 4,
        "shift": 4,
        "stain": 4,
    }
    x = models.normalise(images, net)
    maps = attribution.grad_cam(net, x, 1)
    null = faithfulness.map_similarity(maps, maps[[2, 3, 0, 1]]).spearman
    assert np.allclose(table[table.change == "another patch"].spearman, null)
    wrecked = faithfulness.sanity(net, x, score=1, stages=2)
    assert np.allclose(
        table[table.change == "all weights randomised"].spearman,
        wrecked[wrecked.stage == 2].spearman,
    )


def test_the_oracle_holds_all_the_mass():
    deciding = torch.zeros(2, 32, 32, dtype=torch.bool)
    deciding[:, :8] = True
    table = (
        faithfulness.deciding_mass({"even": torch.ones(2, 4, 4)}, deciding)
        .groupby("map")
        .mean(numeric_only=True)
    )
    assert table.loc["oracle", ["mass", "lift"]].tolist() == [1, 4]
    assert table.loc["even", ["mass", "lift"]].tolist() == [0.25, 1]


@pytest.fixture(scope="module")
def stained():
    drawn = [
        dataset.make_patch(seed, side_px=96, mpp=1.0, score=score)
        for seed, score in enumerate((3, 2))
    ]
    images = (
        torch.from_numpy(np.stack([patch.image for patch in drawn]))
        .permute(0, 3, 1, 2)
        .contiguous()
    )
    return drawn, images


class Browner(nn.Module):
    """A network planted by hand that scores by DAB: its features are means of 8 x 8 px."""

    network, layers, side_px = "toy", 0, 96
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.0, 1.0, 2.0, 3.0]))

    def tap(self, x, attention=()):
        features = F.avg_pool2d(attribution.dab_map(self, x)[:, None], 8) * self.gain[3]
        return models.Tap(self.after(features), features.mean((2, 3)), features, None, {})

    def after(self, features):
        return features.mean((2, 3)) * self.gain


def deciding(drawn):
    """(B,H,W) bool, the cells that decide the score."""
    return torch.from_numpy(np.stack([patch.masks["deciding"] for patch in drawn]))


SLOW_METHODS = ("occlusion", "integrated_gradients")


def masses(net, images, score, cells):
    """DataFrame, a row per patch, a column per quick method: mass on the deciding cells."""
    x = models.normalise(images, net)
    maps = {
        k: m.function(net, x, score)
        for k, m in attribution.methods_for(net).items()
        if k not in SLOW_METHODS
    }
    return faithfulness.deciding_mass(maps, cells).pivot(
        index="patch", columns="map", values="mass"
    )


def test_on_phantoms_a_network_that_reads_dab_beats_its_blur_matched_null_and_the_oracle_beats_all(
    stained,
):
    drawn, images = stained
    net = Browner()
    x = images / 255
    maps = {"grad_cam": attribution.grad_cam(net, x, 3)}
    for seed in range(8):
        maps[f"null{seed}"] = attribution.blur_random(net, x, 3, seed=seed)
    mass = faithfulness.deciding_mass(maps, deciding(drawn)).pivot(
        index="patch", columns="map", values="mass"
    )
    assert (mass.grad_cam > mass.filter(like="null").max(axis=1)).all()


@pytest.mark.parametrize("name", ["resnet18", "densenet201", "vit_tiny", "hybrid"])
def test_on_phantoms_the_oracle_beats_every_method_of_every_network(name, stained, monkeypatch):
    quick = {"integrated_gradients": {"steps": 2}, "occlusion": {"window_px": 48}}
    for method, options in quick.items():
        slow = attribution.METHODS[method]
        function = functools.partial(slow.function, **options)
        faster = dataclasses.replace(slow, function=function)
        monkeypatch.setitem(attribution.METHODS, method, faster)
    drawn, images = stained
    net = network(name, 96)
    x = models.normalise(images, net)
    maps = {k: m.function(net, x, 2) for k, m in attribution.methods_for(net).items()}
    table = faithfulness.deciding_mass(maps, deciding(drawn)).pivot(
        index="patch", columns="map", values="mass"
    )
    assert (table.pop("oracle") == 1).all()
    assert set(table) <= set(attribution.METHODS)
    assert len(table.columns) >= 9
    assert table.max(axis=None) < 0.99  # chance is 0.63 where most cells of a 3+ patch decide


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(ResNet18 trained on phantoms alone, unseen Patches, which show a stain, their cells)."""
    folder = dataset.write_phantoms(
        tmp_path_factory.mktemp("phantoms"),
        patches=400,
        slides=40,
        side_px=128,
        mpp=1.5,
        seed=5,
        balanced=True,
        truth=True,
        progress=False,
    )
    table, _ = patches.read_table(folder)
    cohorts = [
        store.open_store(
            table[table.set == part].reset_index(drop=True),
            side_px=128,
            folder=folder / "store",
            progress=False,
        )
        for part in ("train", "test")
    ]
    net = models.create("resnet18", side_px=128, weights="none", seed=1)
    fit = train.fit(
        net,
        cohorts[0],
        seed=1,
        progress=False,
        epochs=10,
        lr=1e-3,
        batch=16,
        flips=True,
        schedule="cosine",
        warmup=0.1,
    )
    net = fit.net
    shown = np.flatnonzero(cohorts[1].score > 0)
    cells = [
        np.load(folder / "truth" / f"{Path(cohorts[1].name[i]).stem}.npz")["deciding"]
        for i in shown
    ]
    return net, cohorts[1], shown, torch.from_numpy(np.stack(cells))


def gap(table, groups):
    """Estimate of Grad-CAM's mass on the deciding cells minus its null's, slides resampled."""
    difference = (table.grad_cam - table.blur_random).to_numpy()
    defined = np.isfinite(difference)  # a map without positive mass marks nothing
    return intervals.bootstrap(np.mean, difference[defined], groups=groups[defined])


@pytest.mark.slow
def test_trained_grad_cam_beats_its_null_on_deciding_cells_and_randomised_weights_destroy_that(
    trained,
):
    net, cohort, shown, cells = trained
    images = torch.as_tensor(cohort.images[shown])
    score = torch.from_numpy(cohort.score[shown])
    groups = pd.Series(cohort.slide[shown], name="slides")
    answer = train.predict(net, cohort.images).argmax(1)
    assert (
        cohen_kappa_score(cohort.score, answer, weights="quadratic") > 0.3
    )  # 0.5 in the first run, on slides never seen
    intact = masses(net, images, score, cells)
    learnt = gap(intact, groups)
    assert learnt.low > 0, learnt.text()
    assert (intact.drop(columns="oracle").mean() < intact.oracle.mean()).all()
    *_, (_, _, wrecked) = faithfulness.randomised_copies(net)
    lost = gap(masses(wrecked, images, score, cells), groups)
    assert lost.high < learnt.value / 2, lost.text()  # 0.005 against 0.056 in the first run
