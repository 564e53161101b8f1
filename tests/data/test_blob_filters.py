"""Blob filters, against their definitions, other libraries and discs drawn by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from her2lib import stain
from her2lib.data import blob_filters as filters

RNG = np.random.default_rng(0)


def stained(amount, *, weights=(0.650, 0.704, 0.286)):
    """(3,H,W) float32 grey levels of haematoxylin of an optical density (H,W) on white glass."""
    density = np.multiply.outer(weights, amount)
    return (255 * 10**-density).astype(np.float32)


def discs(radius_px, *, side_px=128, spacing_px=32):
    """(3,H,W) float32 grey levels of a raster of discs of haematoxylin."""
    y, x = np.mgrid[:side_px, :side_px]
    from_centre = np.hypot(x % spacing_px - spacing_px / 2, y % spacing_px - spacing_px / 2)
    disc = (from_centre < radius_px).astype(float)
    return stained(0.3 * ndimage.gaussian_filter(disc, 0.7))


# --- filters -------------------------------------------------------------------------------------


def test_stains_are_parted_as_the_stain_module_parts_them():
    inverse = torch.linalg.inv(stain.HDAB)
    assert np.allclose(filters.UNMIX["h"], inverse[:, 0], atol=1e-4)
    assert np.allclose(filters.UNMIX["d"], inverse[:, 1], atol=1e-4)


def test_smoothing_is_the_binomial_filter():
    field = RNG.normal(size=(20, 23)).astype(np.float32)
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    expected = ndimage.correlate(field.astype(float), np.outer(kernel, kernel))[2:-2, 2:-2]
    assert np.allclose(filters._smooth(field), expected, atol=1e-6)


def test_halving_takes_means_of_four_and_leaves_an_odd_edge_out():
    field = np.arange(15, dtype=np.float32).reshape(3, 5)
    assert filters._halve(field).tolist() == [[3.0, 5.0]]


def test_curvature_of_a_paraboloid_is_known():
    y, x = np.mgrid[-4:5, -4:5].astype(np.float32)
    # second derivatives -2, -6 and 1: negative Laplacian 8, determinant 12 - 1
    answer, roundness = filters._curvature(-(x**2) - 3 * y**2 + x * y)
    assert np.allclose(answer, 8)
    assert np.allclose(roundness, 11)
    # a ridge is not round, a saddle counts as not round at all
    assert np.allclose(filters._curvature(-(x**2))[1], 0)
    assert np.allclose(filters._curvature(x**2 - y**2)[1], 0)


# --- features ------------------------------------------------------------------------------------


def test_wider_filters_answer_to_wider_discs():
    strongest = []
    for radius_px in (2, 4, 8):
        row = filters.features(discs(radius_px))
        answers = {name: row[f"h{name} blob"] for name in ("0n", "0w", "1n", "1w", "2n", "2w")}
        strongest.append(max(answers, key=answers.get))
    assert strongest == sorted(strongest)
    assert strongest[0] < strongest[-1]


def test_halving_a_picture_moves_its_features_down_one_octave():
    large = filters.features(discs(8, side_px=256, spacing_px=64))
    small = filters.features(discs(4, side_px=128, spacing_px=32))
    for kind in ("blob", "gap", "round blob"):
        assert large[f"h1w {kind}"] == pytest.approx(small[f"h0w {kind}"], abs=0.35)


def test_pale_stain_has_the_features_of_dark_stain():
    amount = ndimage.gaussian_filter(RNG.normal(size=(96, 96)), 3)
    amount = 0.4 * (amount - amount.min()) / np.ptp(amount)
    dark, pale = filters.features(stained(amount)), filters.features(stained(amount / 4))
    for name, value in dark.items():
        if name.startswith("h") and "span" not in name:
            assert pale[name] == pytest.approx(value, abs=0.02), name
    assert dark["h span"] - pale["h span"] == pytest.approx(np.log(4), abs=0.01)


def test_features_do_not_depend_on_how_a_picture_lies():
    levels = discs(4) - 20 * RNG.random((3, 128, 128)).astype(np.float32)
    straight = filters.features(levels)
    for turned in (levels.transpose(0, 2, 1), levels[:, ::-1], levels[:, :, ::-1]):
        turned_features = filters.features(np.ascontiguousarray(turned))
        for name, value in straight.items():
            assert turned_features[name] == pytest.approx(value, abs=0.05), name


def test_ink_and_dust_are_left_out():
    levels = discs(4)
    soiled = levels.copy()
    soiled[:, 40:60, 40:60] = 5
    soiled[:, 80:128, 90:128] = np.array([20, 90, 200], np.float32)[:, None, None]
    row, clean = filters.features(soiled), filters.features(levels)
    assert clean["ink"] == 0
    assert 0.1 < row["ink"] < 0.3
    for name in ("h0n blob", "h1w blob", "h1w round blob"):
        assert row[name] == pytest.approx(clean[name], abs=0.3), name


def test_both_says_how_the_stains_lie_to_each_other():
    x = np.mgrid[:96, :96][1]
    stripes = 0.2 * (np.sin(x / 2) + 1)
    others = 0.2 * (1 - np.sin(x / 2))
    dab = (0.268, 0.570, 0.776)
    together = stained(stripes) * stained(stripes, weights=dab) / 255
    apart = stained(stripes) * stained(others, weights=dab) / 255
    assert filters.features(together)["0w both"] > 0.9
    assert filters.features(apart)["0w both"] < -0.9


# --- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "reduced"), [(96, 96, [1, 2]), (191, 400, [1, 2]), (192, 192, [1, 2, 4])]
)
def test_small_pictures_have_fewer_copies(height, width, reduced):
    image = RNG.integers(150, 250, (3, height, width)).astype(np.uint8)
    assert filters.copy_features(image)["reduced"].tolist() == reduced


def test_of_a_large_picture_the_busiest_square_is_looked_at():
    image = np.full((3, 500, 700), 240, np.uint8)
    image[:, 320:480, 520:690] = 120
    square = filters._busiest_square(image, 160)
    assert square.shape == (3, 160, 160)
    assert (square == 120).mean() > 0.85
    assert filters._busiest_square(image, 2000).shape == image.shape
