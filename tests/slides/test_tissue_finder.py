"""Tissue: ink told from stain, filler from glass, sharp from blurred, and the plan of fields."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from her2lib.phantoms import dataset
from her2lib.slides import tissue_finder


@pytest.mark.parametrize(
    ("colour", "ink"),
    [
        # blue, green, red, black
        ((30, 60, 200), True),
        ((20, 150, 60), True),
        ((210, 30, 40), True),
        ((25, 25, 28), True),
        ((120, 80, 60), False),
        ((90, 50, 30), False),
        ((110, 110, 160), False),
        ((236, 236, 236), False),
    ],
)
def test_ink_is_told_from_stain_by_its_hue(colour, ink):
    image = np.full((60, 60, 3), 236, np.uint8)
    image[20:40, 20:40] = colour
    _, pen, white = tissue_finder.find_tissue(image, np.ones((60, 60), bool))
    assert np.allclose(white, 236)
    assert pen[30, 30] == ink


def test_filler_that_was_never_scanned_is_neither_glass_nor_tissue():
    image = np.full((100, 100, 3), 255, np.uint8)
    scanned = np.zeros((100, 100), bool)
    scanned[20:80, 20:80] = True
    image[20:80, 20:80] = 225
    image[40:60, 40:60] = (150, 120, 110)
    tissue, _, white = tissue_finder.find_tissue(image, scanned)
    assert np.allclose(white, 225)
    assert tissue[50, 50]
    assert not tissue[30, 30]
    assert not tissue[5, 5]


def test_sharpness_falls_with_blur_and_not_with_brightness():
    image = dataset.make_patch(5, side_px=512, mpp=0.5, truth=False).image
    sharp = tissue_finder.sharpness(Image.fromarray(image))
    blurred = []
    for sigma in (1, 2, 4):
        soft = gaussian_filter(image, (sigma, sigma, 0))
        blurred.append(tissue_finder.sharpness(Image.fromarray(soft)))
    assert sharp > blurred[0] > blurred[1] > blurred[2]
    assert blurred[2] < tissue_finder.SHARP < sharp
    assert tissue_finder.sharpness(Image.fromarray(image // 2)) == pytest.approx(sharp, rel=0.05)


def test_fields_are_planned_by_what_lies_in_them():
    tissue = np.zeros((20, 30), bool)
    pen = np.zeros((20, 30), bool)
    tissue[:10, 5:10] = True
    tissue[:, 10:20] = True
    pen[10:, 10:12] = True
    grid = SimpleNamespace(left=0, top=0, step=80, columns=3, rows=2)
    fields = tissue_finder.plan_fields(grid, tissue, pen, 8.0, 0.1)
    assert fields.x.tolist() == [0, 80, 160] * 2
    assert fields.y.tolist() == [0] * 3 + [80] * 3
    assert fields.tissue.tolist() == [0.5, 1, 0, 0, 1, 0]
    assert fields.reason.tolist() == ["", "", "blank", "blank", "pen", "blank"]


def test_dab_of_a_field_is_that_of_its_pixels():
    tables = tissue_finder.dab_tables(np.full(3, 236.0))
    pixels = np.full((40, 40, 3), 236, np.uint8)
    assert tissue_finder.dab_fraction(Image.fromarray(pixels), tables) == 0
    pixels[:10] = (120, 80, 60)
    assert tissue_finder.dab_fraction(Image.fromarray(pixels), tables) == 0.25


def test_stains_are_those_of_the_stain_module():
    from her2lib import stain

    assert np.allclose(tissue_finder.HDAB, stain.HDAB.numpy())
    assert stain.DAB_CUTS[0] == tissue_finder.WEAK_DAB


@pytest.mark.parametrize("seed", range(8))
def test_a_phantom_in_eosin_is_pink_and_its_twin_in_dab_is_not(seed):
    phantom = dataset.make_patch(seed, side_px=128, mpp=0.5, truth=False, he=True)
    white = np.full(3, 240.0)
    assert tissue_finder.eosin_fraction(Image.fromarray(phantom.image), white) < 0.02
    pink = tissue_finder.eosin_fraction(Image.fromarray(phantom.he), white)
    assert pink > 2 * tissue_finder.HE_FRACTION


def test_a_field_without_stain_is_not_pink():
    glass = Image.fromarray(np.full((64, 64, 3), 236, np.uint8))
    assert tissue_finder.eosin_fraction(glass, np.full(3, 236.0)) == 0


def test_eosin_is_no_ink():
    # the commonest colour of a real frozen section in H&E, and of a red marker
    image = np.full((60, 120, 3), 236, np.uint8)
    image[20:40, 20:40] = (200, 84, 139)
    image[20:40, 80:100] = (210, 30, 40)
    _, pen, _ = tissue_finder.find_tissue(image, np.ones((60, 120), bool))
    assert not pen[30, 30]
    assert pen[30, 90]


def test_fields_outside_the_regions_are_left_out_whatever_they_show():
    grid = SimpleNamespace(rows=1, columns=2, left=0, top=0, step=80)
    tissue = np.ones((10, 20), bool)
    fields = tissue_finder.plan_fields(
        grid, tissue, ~tissue, 8.0, 0.1, in_region=np.array([[True, False]])
    )
    assert fields.reason.tolist() == ["", "outside regions"]
