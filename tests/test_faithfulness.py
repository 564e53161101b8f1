"""Belief: removal against every other order, imputation against pytorch-grad-cam, randomisation, likeness, ablations, phantoms."""

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from her2lib import attribute, faithfulness, focus, intervals, models, phantom, stain, train
from her2lib.patches import Patches


class Redness(nn.Module):
    """Four logits: 0, the weighted sum of red, 0, 0; its true map is weight times red."""

    network, layers, grid, mean, std = "toy", 0, (2, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

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
    monkeypatch.setattr(faithfulness, "_blur", lambda x, sigma_px: torch.zeros_like(x))
    net, x = Redness(), torch.ones(1, 3, 8, 8)
    orders = torch.tensor(list(permutations(range(4))), dtype=torch.float32).reshape(24, 2, 2)
    batch = x.expand(24, -1, -1, -1)
    deleted = faithfulness.area(faithfulness.deletion(net, batch, orders, 1, steps=4))
    inserted = faithfulness.area(faithfulness.insertion(net, batch, orders, 1, steps=4))
    true = net.weight.detach()[None]
    assert faithfulness.area(faithfulness.deletion(net, x, true, 1, steps=4)) == deleted.min() < deleted.max()
    assert faithfulness.area(faithfulness.insertion(net, x, true, 1, steps=4)) == inserted.max() > inserted.min()
    # cells go in the order 3, 2, 1, -1, so the logit (a quarter of the sum) runs 5/4, 2/4, 0, -1/4, 0
    logits = torch.tensor([5, 2, 0, -1, 0]) / 4
    curve = faithfulness.deletion(net, x, true, 1, steps=4)
    assert torch.allclose(curve[0], logits.exp() / (3 + logits.exp()))


def test_curves_start_and_end_where_they_must():
    net, x = network("vit_tiny"), noise(2, 3, 64, 64)
    maps, shown = noise(2, 4, 4), net(x).softmax(1)[:, 2].detach()
    for baseline in ("blur", "tokens"):
        deleted = faithfulness.deletion(net, x, maps, 2, steps=4, baseline=baseline)
        inserted = faithfulness.insertion(net, x, maps, 2, steps=4, baseline=baseline)
        assert torch.allclose(deleted[:, 0], shown, atol=1e-5)
        assert torch.allclose(inserted[:, -1], shown, atol=1e-5)
        assert torch.allclose(deleted[:, -1], inserted[:, 0], atol=1e-5)
        assert not torch.allclose(deleted[:, 0], deleted[:, -1], atol=1e-3)
    assert faithfulness.area(torch.linspace(0, 1, 5)[None]).item() == pytest.approx(0.5)


def test_dropped_tokens_are_not_seen_at_all():
    net, x, maps = network("hybrid", 96), noise(1, 3, 96, 96), noise(1, 3, 3)
    curve = faithfulness.insertion(net, x, maps, "expected", steps=3, baseline="tokens")
    vit, order = net.backbone, maps.flatten().argsort(descending=True)
    tokens = vit._pos_embed(vit.patch_embed(x))
    for step in range(4):
        left = torch.cat([tokens[:, :1], tokens[:, 1:][:, order[: 3 * step]]], 1)
        p = vit.forward_head(vit.norm(vit.blocks(left))).softmax(1)
        assert torch.allclose(curve[:, step], p @ torch.arange(4.0), atol=1e-5)


def test_a_cnn_has_no_tokens_to_drop_and_a_wrong_baseline_is_named():
    net, x = network("resnet18"), noise(1, 3, 64, 64)
    with pytest.raises(ValueError, match="no tokens to drop: use baseline='blur'"):
        faithfulness.deletion(net, x, noise(1, 2, 2), 1, baseline="tokens")
    with pytest.raises(ValueError, match="'black' is not a baseline"):
        faithfulness.deletion(net, x, noise(1, 2, 2), 1, baseline="black")


def hidden_pixels(kind, share, side_px):
    cells = {"hills": ("bilinear", 5), "cells": ("nearest", 5), "pixels": ("nearest", side_px)}[kind]
    values = F.interpolate(noise(2, 1, cells[1], cells[1], seed=2), (side_px, side_px), mode=cells[0])[:, 0]
    return values > values.flatten(1).quantile(1 - share, dim=1)[:, None, None]


@pytest.mark.parametrize("side_px", [64, 75])
@pytest.mark.parametrize("kind", ["hills", "cells", "pixels"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_imputed_pixels_equal_pytorch_grad_cams_within_one_grey_level(side_px, kind, share):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    images, hidden = noise(2, 3, side_px, side_px), hidden_pixels(kind, share, side_px)
    peer = torch.stack([road.NoisyLinearImputer(noise=0)(i, (~h).float()) for i, h in zip(images, hidden, strict=True)])
    own = faithfulness.impute(images, hidden)
    assert (own - peer).abs().max() <= 1 / 255
    assert torch.equal(own.where(~hidden[:, None], torch.zeros(())), images.where(~hidden[:, None], torch.zeros(())))


def test_imputation_continues_a_ramp():
    ramp = torch.arange(48.0).expand(1, 1, 48, 48) / 48
    hidden = torch.zeros(1, 48, 48, dtype=torch.bool)
    hidden[:, 5:40, 7:44] = True
    assert torch.allclose(faithfulness.impute(ramp, hidden, tolerance=1e-6), ramp, atol=1e-5)


def test_road_prefers_the_true_map_and_repeats_itself():
    net, x = Redness(), 0.5 + 0.5 * noise(3, 3, 32, 32)
    x[:, :, 16:, :16] += 3  # the cell that weighs most differs from what its neighbours would say
    true = (net.weight.detach() * F.adaptive_avg_pool2d(x[:, 0], 2)).clone()
    table = faithfulness.road(net, x, true, 1, shares=(0.2, 0.4))
    assert table.columns.tolist() == ["patch", "share", "least", "most", "road"]
    assert len(table) == 6
    assert table.road.mean() > 0.02 > faithfulness.road(net, x, -true, 1, shares=(0.2, 0.4)).road.mean()
    alone = faithfulness.road(net, x[1:2], true[1:2], 1, shares=(0.2, 0.4))
    assert np.allclose(alone.road, table[table.patch == 1].road, atol=1e-5)


def test_randomising_shuffles_a_copy_from_the_output_to_the_input():
    net = network("resnet18")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    changed = []
    for _, _, copy in faithfulness.randomised(net, stages=4):
        now = copy.state_dict()
        for name, value in before.items():
            assert torch.equal(now[name].flatten().sort().values, value.flatten().sort().values)
        changed.append({name for name, value in before.items() if not torch.equal(now[name], value)})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert "backbone.fc.weight" in changed[0]
    assert "backbone.conv1.weight" not in changed[2]
    assert changed[0] < changed[1] < changed[2] < changed[3]
    assert "backbone.conv1.weight" in changed[3]


def test_sanity_starts_at_one_and_a_map_that_ignores_the_network_never_falls():
    net, x = network("vit_tiny"), noise(2, 3, 64, 64)
    table = faithfulness.sanity(net, x, 1, stages=3)
    assert table[table.stage == 0].spearman.tolist() == pytest.approx([1, 1])
    assert sorted(set(table.stage)) == [0, 1, 2, 3]
    assert table[table.stage == 3].spearman.mean() < 0.7
    assert faithfulness.sanity(net, x, 1, method=attribute.edges, stages=2).spearman.min() == pytest.approx(1)


def test_likeness_of_maps():
    maps = noise(2, 7, 7)
    same, turned = faithfulness.alike(maps, 3 * maps + 1), faithfulness.alike(maps, -maps)
    assert same.spearman.tolist() == pytest.approx([1, 1])
    assert same.overlap.tolist() == [1, 1]
    assert turned.spearman.tolist() == pytest.approx([-1, -1])
    assert turned.overlap.tolist() == [0, 0]
    assert faithfulness.alike(maps, torch.ones(2, 7, 7)).spearman.isna().all()
    assert faithfulness.alike(maps, maps.repeat_interleave(2, 1).repeat_interleave(2, 2)).spearman.tolist() == pytest.approx([1, 1])
    pairs = faithfulness.agreement({"a": maps, "b": -maps, "c": maps})
    assert pairs.groupby(["a", "b"]).spearman.mean().round(6).to_dict() == {("a", "b"): -1, ("a", "c"): 1, ("b", "c"): -1}


def test_a_map_of_the_picture_alone_moves_with_the_picture():
    net = network("resnet18")
    images = (255 * F.interpolate(noise(2, 3, 9, 9), (64, 64), mode="bilinear")).to(torch.uint8)
    table = faithfulness.stability(net, images, 1, method=attribute.dab)
    assert table[table.change == "shift"].spearman.min() > 0.999
    assert table[table.change == "stain"].spearman.between(0.5, 1).all()


def test_the_oracle_holds_all_the_mass():
    deciding = torch.zeros(2, 32, 32, dtype=torch.bool)
    deciding[:, :8] = True
    table = faithfulness.deciding_mass({"even": torch.ones(2, 4, 4)}, deciding).groupby("map").mean(numeric_only=True)
    assert table.loc["oracle", ["mass", "lift"]].tolist() == [1, 4]
    assert table.loc["even", ["mass", "lift"]].tolist() == [0.25, 1]


@pytest.fixture(scope="module")
def stained():
    made = [phantom.patch(seed, side_px=96, mpp=1.0, score=score) for seed, score in enumerate((3, 2))]
    images = torch.from_numpy(np.stack([one.image for one in made])).permute(0, 3, 1, 2).contiguous()
    return made, images


def test_ablations_leave_what_their_name_says(stained):
    made, images = stained
    masks = {name: torch.from_numpy(np.stack([one.masks[name] for one in made])) for name in ("tumour", "deciding")}
    given, tumour = faithfulness.ablations(images, masks=masks, mpp=1.0), masks["tumour"][:, None].expand_as(images)
    assert all(value.shape == images.shape and value.dtype == torch.uint8 for value in given.values())
    assert stain.unmix(given["dab_only"], white="glass")[:, 0].abs().mean() < 0.25 * stain.unmix(images, white="glass")[:, 0].abs().mean()
    assert stain.dab(given["haematoxylin_only"], white="glass").mean() < 0.1 * stain.dab(images, white="glass").mean()
    assert torch.equal(given["background_only"][~tumour], images[~tumour])
    assert torch.equal(given["tumour_only"][tumour], images[tumour])
    assert given["background_only"].float().where(tumour, torch.zeros(())).flatten(2).std(2).max() > 0
    assert torch.equal(given["corners_only"][:, :, :24, -24:], images[:, :, :24, -24:])
    assert given["corners_only"][0, :, 30:60, 30:60].flatten(1).unique(dim=1).shape[1] == 1
    assert stain.dab(given["corners_only"][:, :, 30:60, 30:60]).mean() < 0.1
    shuffled = given["tiles_shuffled"]
    assert not torch.equal(shuffled, images)
    assert torch.equal(shuffled.flatten(1).sort().values, images.flatten(1).sort().values)
    tiles = {bytes(t.numpy().tobytes()) for t in images.unfold(2, 24, 24).unfold(3, 24, 24).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)}
    assert {bytes(t.numpy().tobytes()) for t in shuffled.unfold(2, 24, 24).unfold(3, 24, 24).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)} == tiles


def test_blurred_membranes_keep_the_mean_dab_of_each_patch(stained):
    images = stained[1]
    blurred = faithfulness.ablations(images, mpp=1.0)["membranes_blurred"]
    before, after = stain.dab(images), stain.dab(blurred)
    assert torch.allclose(before.mean((1, 2)), after.mean((1, 2)), rtol=0.03)
    assert after.flatten(1).std(1).max() < 0.7 * before.flatten(1).std(1).min() or (after.std() < 0.7 * before.std())
