"""Stain on anatomy: masks and densities lie where the cells are."""

import numpy as np
import pytest
from examples import brownness

from her2lib.phantoms import dataset, slide, staining

OFF = dict.fromkeys(slide.ARTEFACTS, False)
SMALL = {"side_px": 256, "mpp": 0.5}


@pytest.fixture(scope="module")
def strong():
    return dataset.make_patch(5, score=3, side_px=512, **OFF)


@pytest.fixture(scope="module")
def canvas():
    """Canvas of a 3+ window of 128 px: all cells have whole membranes of density 0.8."""
    plan, _, rng = slide.set_up_patch(5, 3, None, OFF)
    view = slide.find_view(plan, rng, 128.0, 3)
    count = len(view.cells.x)
    stain = {
        "intensity": np.full(count, 0.8, np.float32),
        "completeness": np.ones(count, np.float32),
        "cytoplasm": np.zeros(count, np.float32),
    }
    return staining.paint(plan, view.ground, view.cells, stain, side_px=128)


def test_masks_have_the_patch_shape_and_lie_where_they_should(strong):
    masks = strong.masks
    assert set(masks) == {"tumour", "membrane", "nucleus", "stroma", "artefact", "deciding"}
    assert all(mask.shape == (512, 512) and mask.dtype == bool for mask in masks.values())
    assert not (masks["membrane"] & ~masks["tumour"]).any()
    assert not (masks["deciding"] & ~masks["tumour"]).any()
    assert not (masks["tumour"] & masks["stroma"]).any()
    assert not masks["artefact"].any()


def test_dab_lies_on_the_membranes_and_haematoxylin_in_the_nuclei(strong):
    red, blue = (strong.image[..., c].astype(float) for c in (0, 2))
    membrane = strong.masks["membrane"]
    inner = strong.masks["tumour"] & ~membrane & ~strong.masks["nucleus"]
    assert (red - blue)[membrane].mean() > (red - blue)[inner].mean() + 15
    nucleus = strong.masks["nucleus"] & strong.masks["stroma"]
    assert red[nucleus].mean() < red[strong.masks["stroma"] & ~nucleus].mean() - 5


def test_cells_lie_in_the_picture_on_the_tumour(strong):
    cells = strong.cells[strong.cells.invasive]
    x, y = cells.x.astype(int), cells.y.astype(int)
    assert x.between(0, 511).all()
    assert y.between(0, 511).all()
    assert strong.masks["tumour"][y, x].mean() > 0.8


def test_deciding_cells_are_those_that_reach_the_score(strong):
    cells = strong.cells
    reach = (cells.completeness >= 0.85) & (cells.intensity >= 0.55) & cells.invasive
    assert (cells.deciding == reach).all()
    inside = strong.masks["deciding"][cells.y.astype(int), cells.x.astype(int)]
    assert inside[cells.deciding].mean() > 0.8
    assert inside[~cells.deciding].mean() < 0.2


def test_in_a_score_0_patch_every_invasive_cell_decides():
    phantom = dataset.make_patch(41, score=0, **SMALL, **OFF)
    assert phantom.cells.deciding[phantom.cells.invasive].all()
    assert phantom.masks["deciding"].sum() > 0.9 * phantom.masks["tumour"].sum()


def test_stain_grows_with_the_score():
    brown = []
    for score in range(4):
        phantoms = [dataset.make_patch(seed, score=score, **SMALL, **OFF) for seed in range(5)]
        brown.append(np.mean([brownness(phantom) for phantom in phantoms]))
    assert brown == sorted(brown)
    assert brown[3] > 3 * brown[1]


def test_a_painted_membrane_carries_the_density_of_its_cells(canvas):
    brown = canvas.dye["dab"]
    assert brown[canvas.masks["stroma"]].max() == 0
    assert brown[canvas.owner < 0].max() == 0
    # 0.85 of the line and 0.24 of its blur, at a pixel or so from the border
    assert 0.4 < np.median(brown[canvas.masks["membrane"]]) < 0.9
    away = canvas.masks["tumour"] & ~canvas.masks["membrane"]
    assert np.median(brown[away]) < 0.5 * np.median(brown[canvas.masks["membrane"]])


def test_every_pixel_of_the_tumour_belongs_to_a_cell(canvas):
    assert (canvas.owner[canvas.masks["tumour"]] >= 0).all()
    assert (canvas.owner[canvas.masks["stroma"]] == -1).all()
    assert min(dye.min() for dye in canvas.dye.values()) >= 0
