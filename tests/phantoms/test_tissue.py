"""Anatomy: one endless plane, of which every window shows the same tissue."""

from dataclasses import replace

import numpy as np
import pytest

from her2lib.phantoms import dataset, slide, tissue

OFF = dict.fromkeys(slide.ARTEFACTS, False)


def cells_of(plan, x_um, y_um, side_um):
    """Cells of one window of a slide."""
    return tissue.populate(plan, tissue.lay_out(plan, tissue.Window(x_um, y_um, side_um)))


def positions(cells, *, x_um, y_um, side_um):
    """Set of (x, y, kind) of the cells in a square, rounded to a hundredth of a micrometre."""
    inside = (cells.x > x_um) & (cells.x < x_um + side_um)
    inside = inside & (cells.y > y_um) & (cells.y < y_um + side_um)
    columns = (cells.x[inside].round(2), cells.y[inside].round(2), cells.kind[inside])
    return set(zip(*(column.tolist() for column in columns), strict=True))


def test_noise_is_the_same_wherever_a_window_lies():
    a = tissue.noise(1, 2, np.arange(0, 100.0), np.arange(0, 80.0), 12.0)
    b = tissue.noise(1, 2, np.arange(30, 100.0), np.arange(20, 80.0), 12.0)
    assert np.allclose(a[20:, 30:], b, atol=1e-4)
    wide = tissue.noise(1, 2, np.arange(4000.0), np.arange(500.0), 12.0)
    assert wide.std() == pytest.approx(1, abs=0.15)


def test_windows_that_overlap_show_the_same_tissue():
    drawn = slide.draw_slide(4, score=2)
    x, y = dataset.find_window(0, drawn, side_um=192, score=2, **OFF)
    one, two = (
        dataset.make_patch(0, slide=drawn, at_um=(x + dx, y), side_px=384, **OFF) for dx in (0, 96)
    )
    left, right = np.s_[40:-40, 192 + 40 : -40], np.s_[40:-40, 40 : 192 - 40]
    for name in ("tumour", "stroma", "nucleus"):
        same = (one.masks[name][left] == two.masks[name][right]).mean()
        assert same > 0.97, name


def test_windows_that_overlap_hold_the_same_cells():
    plan = slide.draw_slide(4, score=2)
    one = cells_of(plan, 0.0, 0.0, 200.0)
    two = cells_of(plan, 80.0, 0.0, 200.0)
    square = {"x_um": 100.0, "y_um": 40.0, "side_um": 80.0}
    first, second = positions(one, **square), positions(two, **square)
    assert len(first) > 30
    assert len(first & second) > 0.95 * len(first | second)


def test_of_cells_that_stand_too_close_the_higher_rank_stays():
    position = np.array([[0.0, 0.0], [5.0, 0.0], [10.0, 0.0], [30.0, 0.0], [34.0, 0.0]])
    spacing = np.array([6.0, 6.0, 6.0, 3.0, 6.0])
    rank = np.array([0.3, 0.2, 0.1, 0.5, 0.6])
    # the first removes the second, which then removes nobody; the narrower spacing of two counts
    assert tissue._thin(position, spacing, rank).tolist() == [0, 2, 3, 4]


def test_cells_that_are_not_columnar_stay_where_they_are_and_columns_share_a_foot():
    points = np.array([[10.0, 20.0], [10.0, 30.0]])
    slope = np.array([[0.0, 1.0], [0.0, 1.0]])
    depth = np.array([5.0, 15.0])
    plain = tissue.embed(points, depth, slope, np.zeros(2))
    assert plain.tolist() == [[10, 20, 0], [10, 30, 0]]
    column = tissue.embed(points, depth, slope, np.ones(2))
    # 20 - 0.9 * 5 and 30 - 0.9 * 15; depth times 0.38
    assert column == pytest.approx(np.array([[10, 15.5, 1.9], [10, 16.5, 5.7]]))


def test_outside_a_microarray_core_there_is_glass():
    plan = replace(slide.draw_slide(4), core_um=300.0, core_at=(0.0, 0.0))
    assert tissue.glass_fraction(plan, tissue.Window(-100.0, -100.0, 200.0)) == 0
    # cores lie 2.4 radii apart: halfway between four of them is nothing
    assert tissue.glass_fraction(plan, tissue.Window(310.0, 310.0, 100.0)) == 1
    ground = tissue.lay_out(plan, tissue.Window(310.0, 310.0, 100.0))
    assert len(tissue.populate(plan, ground).x) == 0
