"""Focus against numbers worked out on paper: mass, depth, scatter, pointing, attention."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from her2lib.maps import attribution, focus
from her2lib.networks import models


def square(side=64, low=16, high=48):
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, low:high, low:high] = True
    return mask


def test_share_counts_positive_mass_and_spreads_a_cell_over_its_pixels():
    maps = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]]])
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4, :2] = True  # half of the cell with 3 of 4
    assert focus.mass_fraction(maps, mask).item() == pytest.approx(3 / 8)
    assert focus.mass_fraction(maps, ~mask).item() == pytest.approx(5 / 8)
    assert focus.mass_fraction(-maps, mask).item() == 0  # all of it on the third cell


def test_a_map_without_positive_mass_has_no_focus():
    table = focus.focus(-torch.ones(1, 4, 4), {"tumour": square()})
    for column in ("share_tumour", "edge_to_centre", "entropy", "gini", "peaks"):
        assert math.isnan(table[column][0])
    assert table.positive[0] == 0


def test_an_even_map_has_the_focus_of_chance():
    masks = {"tumour": square(), "glass": ~square()}
    table = focus.focus(torch.ones(1, 64, 64), masks, mpp=1.0).iloc[0]
    assert table.share_tumour == table.area_tumour == pytest.approx(0.25)
    assert table.share_glass == pytest.approx(0.75)
    assert table.entropy == pytest.approx(1)
    assert table.gini == pytest.approx(0)
    assert math.isnan(table.edge_share)
    # 16 px deep at 1 um per px: nothing lies deeper than 30 um
    assert math.isnan(table.edge_to_centre)
    assert focus.edge_to_centre(torch.ones(1, 64, 64), square(), mpp=2.5)[0] == pytest.approx(1)


@pytest.mark.parametrize(("mpp", "depth_px"), [(None, 14), (float("nan"), 14), (3.0, 10)])
def test_edge_to_centre_is_the_ratio_of_densities_whatever_the_areas(mpp, depth_px):
    tumour, maps = square(96, 16, 80), torch.ones(1, 96, 96)
    inner = slice(16 + depth_px, 80 - depth_px)
    maps[:, 16:80, 16:80] = 6.0
    maps[:, inner, inner] = 2.0
    assert focus.edge_to_centre(maps, tumour, mpp=mpp)[0] == pytest.approx(3)
    assert focus.focus(maps, {"tumour": tumour}, mpp=mpp).edge_share[0] == pytest.approx(0.75)
    maps[:, inner, inner] = 0
    assert focus.focus(maps, {"tumour": tumour}, mpp=mpp).edge_share[0] == 1


def test_bands_name_their_unit_and_take_no_cut_for_an_edge():
    tumour = torch.zeros(3, 64, 64, dtype=torch.bool)
    # touches three borders of the patch; its only edge is the line in the middle
    tumour[:2, :, :32] = True
    tumour[2] = True  # no edge at all
    maps = torch.zeros(3, 64, 64)
    maps[:, :, 0] = 1.0
    table = focus.depth_bands(maps, tumour, mpp=[float("nan"), 4.0, 4.0])
    assert set(table.patch) == {0, 1}
    assert table[table.patch == 0].unit.eq("px").all()
    assert table[table.patch == 1].unit.eq("um").all()
    first = table[table.patch == 0]
    assert first.area.tolist() == pytest.approx([7 / 32, 7 / 32, 14 / 32, 4 / 32])
    # the first column lies 32 px under the edge
    assert first.mass.tolist() == pytest.approx([0, 0, 0, 1])
    assert first.density.tolist() == pytest.approx([0, 0, 0, 8])
    second = table[table.patch == 1]
    assert second.area.tolist() == pytest.approx([3 / 32, 4 / 32, 8 / 32, 17 / 32])  # 15, 30, 60 um
    assert np.isnan(focus.edge_to_centre(maps, tumour)[2])


def test_scatter_of_one_and_of_two_spots():
    maps = torch.zeros(3, 7, 7)
    maps[0, 3, 3] = 5.0
    maps[1, 1, 1], maps[1, 5, 5] = 2.0, 2.0
    maps[2, 1, 1], maps[2, 5, 5] = 2.0, 0.9  # below half of the top: no peak
    table = focus.scatter(maps)
    assert table.entropy[0] == 0
    assert table.entropy[1] == pytest.approx(math.log(2) / math.log(49))
    assert table.gini[0] == pytest.approx(48 / 49)
    assert table.peaks.tolist() == [1, 2, 1]


def test_scatter_compares_networks_on_common_cells():
    coarse = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0))
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert np.allclose(focus.scatter(coarse), focus.scatter(fine))


def test_pointing_asks_what_lies_at_the_highest_cell():
    maps = torch.zeros(2, 4, 4)
    maps[0, 1, 1] = maps[1, 0, 1] = 1.0
    assert focus.pointing(maps, square().expand(2, -1, -1)).tolist() == [1, 0]
    # 8 x 8 of the cell's 16 x 16 px
    assert focus.pointing(maps[:1], square(64, 24, 48)).item() == 0.25


def test_attention_distance_of_identity_and_of_uniform_attention():
    def distance(attention, grid, pitch_px=1.0):
        return focus.attention_distance(attention[None, None], grid, pitch_px=pitch_px).item()

    assert distance(torch.eye(9), (3, 3)) == 0
    assert distance(torch.full((4, 4), 0.25), (2, 2)) == pytest.approx(
        (0 + 1 + 1 + math.sqrt(2)) / 4
    )
    # queries: 0+1+2, 1+0+1, 2+1+0
    assert distance(torch.full((3, 3), 1 / 3), (1, 3)) == pytest.approx((3 + 2 + 3) / 9)
    # one pooled token: it has no position, its part is taken out
    with_prefix = torch.full((5, 5), 0.2)
    assert distance(with_prefix, (2, 2), pitch_px=16) == pytest.approx(16 * (2 + math.sqrt(2)) / 4)


def test_attention_distances_of_a_network_in_px_and_um():
    net = models.create("vit_tiny", side_px=64, weights="none")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    table = focus.attention_distances(net, x, mpp=[2.0, float("nan")])
    assert table.groupby(["patch", "layer", "head"]).ngroups == len(table) == 2 * 12 * 3
    expected = focus.attention_distance(
        net.tap(x, attention=(5,)).attention[5].detach(), (4, 4), pitch_px=16
    )
    assert np.allclose(table[table.layer == 5].distance_px, expected.flatten())
    first, second = table[table.patch == 0], table[table.patch == 1]
    assert np.allclose(first.distance_um, 2 * first.distance_px)
    assert second.distance_um.isna().all()
    with pytest.raises(ValueError, match="has no attention"):
        focus.attention_distances(models.create("resnet18", side_px=64, weights="none"), x)


def test_a_token_of_high_norm_is_counted():
    class Toy(torch.nn.Module):
        def tap(self, x):
            return models.Tap(None, None, x, None, {})

    x = torch.ones(2, 5, 4, 4)
    x[1, :, 2, 1] = 4.0
    norm, count = focus.high_norm_tokens(Toy(), x)
    assert count.tolist() == [0, 1]
    assert norm[1, 2, 1] == pytest.approx(4)


def test_every_map_of_a_network_has_a_focus():
    net = models.create("hybrid", side_px=64, weights="none")
    images = torch.randint(
        0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    maps = attribution.relevance(net, models.normalise(images, net), 2)
    table = focus.focus(maps, {"tumour": square().expand(2, -1, -1)})
    assert table.share_tumour.between(0, 1).all()
    assert len(table) == 2


def test_chance_is_the_mean_of_maps_with_the_same_values_placed_by_chance():
    maps = torch.zeros(2, 8, 8)
    # one spot: its mass on a quarter of the patch is 0 or 1 in every draw, its scatter always 0
    maps[:, 2, 3] = 4.0
    masks = {"tumour": square().expand(2, -1, -1)}

    def generators(seed):
        return [torch.Generator().manual_seed(seed + i) for i in range(2)]

    many = focus.focus_by_chance(maps, generators(0), masks, draws=200, grid=8)
    assert many.share_tumour.tolist() == pytest.approx([0.25, 0.25], abs=0.1)
    assert many.entropy.tolist() == [0, 0]
    assert focus.focus_by_chance(maps, generators(0), masks, draws=4).equals(
        focus.focus_by_chance(maps, generators(0), masks, draws=4)
    )
    assert (
        4 * focus.focus_by_chance(maps, generators(0), masks, draws=4).share_tumour % 1 == 0
    ).all()


def test_truth_comes_from_the_files_beside_the_phantoms_at_the_asked_side(tmp_path):
    inside = np.zeros((8, 8), bool)
    inside[:4, 4:] = True
    np.savez(tmp_path / "a.npz", tumour=inside, deciding=~inside)
    np.savez(tmp_path / "b.npz", tumour=~inside, deciding=inside)
    masks = focus.read_truth(tmp_path, ["b.png", "a.png"], side_px=4)
    assert masks["tumour"].shape == (2, 4, 4)
    assert masks["tumour"][1].nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    assert torch.equal(masks["tumour"][0], masks["deciding"][1])
    with pytest.raises(FileNotFoundError):
        focus.read_truth(tmp_path, ["c.png"], side_px=4)


def test_means_resample_the_units_of_the_patches_that_a_group_has():
    table = pd.DataFrame(
        {
            "patch": [0, 1, 2, 3, 2, 3],
            "name": ["a"] * 4 + ["b"] * 2,
            "value": [1.0, 3.0, 5.0, math.nan, 2.0, 4.0],
        }
    )
    groups = pd.Series([7, 7, 8, 9], name="slides")
    means = focus.mean_table(table, ["value"], by=["name"], groups=groups, resamples=200)
    means = means.set_index("name")
    assert means["value"].to_dict() == {"a": 3, "b": 3}
    assert means["n"].to_dict() == {"a": 3, "b": 2}
    assert means["sample"].to_dict() == {"a": "patches of 2 slides", "b": "patches of 2 slides"}
    # slides 7 and 8 have the means 2 and 5
    assert (means["low"].iloc[0], means["high"].iloc[0]) == (2, 5)


def test_attention_by_weights_names_the_weights_and_counts_the_tokens():
    nets = {
        weights: models.create("hybrid", side_px=64, weights="none", seed=seed)
        for weights, seed in (("untrained", 0), ("trained", 1))
    }
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    table = focus.attention_by_weights(nets, x, mpp=2.0)
    assert table.weights.unique().tolist() == ["untrained", "trained"]
    trained = focus.attention_distances(nets["trained"], x, mpp=2.0)
    assert np.allclose(table[table.weights == "trained"].distance_um, trained.distance_um)
    assert table.groupby(["weights", "patch"]).tokens.nunique().eq(1).all()
    assert (
        table[table.weights == "trained"].groupby("patch").tokens.first().tolist()
        == focus.high_norm_tokens(nets["trained"], x)[1].tolist()
    )
