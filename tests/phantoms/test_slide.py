"""The slide and its cells: the ASCO/CAP rule by two implementations, clones, switches."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from her2lib.phantoms import dataset, slide

OFF = dict.fromkeys(slide.ARTEFACTS, False)
SMALL = {"side_px": 256, "mpp": 0.5}


def by_hand(cells):
    """The rule once more, cell by cell, as a pathologist would count it."""
    count = {"strong": 0, "moderate": 0, "faint": 0, "all": 0}
    for cell in cells.itertuples():
        if not cell.invasive:
            continue
        count["all"] += 1
        if cell.completeness >= 0.85 and cell.intensity >= 0.55:
            count["strong"] += 1
        elif cell.completeness >= 0.85 and cell.intensity >= 0.18:
            count["moderate"] += 1
        elif cell.completeness > 0 and cell.intensity >= 0.04:
            count["faint"] += 1
    above = 0.1 * count["all"]
    if count["strong"] > above:
        return 3
    if count["strong"] + count["moderate"] > above:
        return 2
    if count["strong"] + count["moderate"] + count["faint"] > above:
        return 1
    return 0


def unpainted(seed, *, side_px, mpp=0.5, score=None, **switches):
    """(score, cell table) of make_patch(seed, ...), without the time that its picture takes."""
    plan, _, rng = slide.set_up_patch(seed, score, None, switches)
    view = slide.find_view(plan, rng, side_px * mpp, score)
    return slide.decide(view, mpp)[:2]


def table(*rows):
    """Cell table of rows (intensity, completeness, invasive)."""
    return pd.DataFrame(rows, columns=["intensity", "completeness", "invasive"])


# --- the score -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seeds", [range(200), pytest.param(range(200, 1000), marks=pytest.mark.slow)]
)
def test_the_score_of_a_thousand_phantoms_is_the_same_by_a_second_implementation(seeds):
    scores = []
    for seed in seeds:
        score, cells = unpainted(seed, side_px=48, mpp=2.0)
        assert score == by_hand(cells)
        scores.append(score)
    assert set(scores) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("stained", "intensity", "completeness", "score"),
    [
        (10, 0.9, 1, 0),
        (11, 0.9, 1, 3),
        (11, 0.4, 1, 2),
        (11, 0.9, 0.6, 1),
        (11, 0.1, 0.3, 1),
        (11, 0.02, 1, 0),
        (0, 0, 0, 0),
    ],
)
def test_more_than_ten_percent_of_the_cells_decide(stained, intensity, completeness, score):
    cells = table(
        *[(intensity, completeness, True)] * stained, *[(0.0, 0.0, True)] * (100 - stained)
    )
    assert slide.score_of_cells(cells) == by_hand(cells) == score


def test_cells_in_situ_do_not_count():
    assert slide.score_of_cells(table(*[(0.9, 1.0, False)] * 50, *[(0.0, 0.0, True)] * 50)) == 0
    assert slide.score_of_cells(table()) == 0


@pytest.mark.parametrize("score", range(4))
def test_the_score_asked_for_is_the_score_shown(score):
    phantom = dataset.make_patch(40 + score, score=score, **SMALL)
    assert phantom.score == score == by_hand(phantom.cells)
    assert phantom.image.shape == (256, 256, 3)
    assert phantom.image.dtype == np.uint8


def test_painting_does_not_change_the_cells():
    phantom = dataset.make_patch(8, score=2, side_px=128)
    score, cells = unpainted(8, score=2, side_px=128)
    assert phantom.cells.equals(cells)
    assert phantom.score == score


def test_a_slide_without_the_score_says_so():
    bare = replace(slide.draw_slide(4, score=0), clone=(0.0, 0.0, 0.0))
    with pytest.raises(LookupError, match=r"shows the score 3\+"):
        dataset.make_patch(0, slide=bare, score=3, side_px=64, mpp=1.0)


# --- what a slide shares -------------------------------------------------------------------------


def test_a_slide_is_drawn_from_its_seed():
    assert slide.draw_slide([3, 4], laboratory=2) == slide.draw_slide([3, 4], laboratory=2)
    assert slide.draw_slide([3, 4]) != slide.draw_slide([3, 5])
    assert [slide.draw_slide(9, score=score).score for score in range(4)] == [0, 1, 2, 3]


def test_slides_show_the_scores_of_bci_and_no_more_cells_than_there_are():
    slides = [slide.draw_slide(seed) for seed in range(400)]
    counts = np.bincount([one.score for one in slides], minlength=4) / len(slides)
    assert counts == pytest.approx(slide.MIX, abs=0.08)
    for one in slides:
        assert sum(one.grades) <= 1 + 1e-9
        assert min(one.grades) >= 0


def test_two_clones_stain_differently():
    tables = (unpainted(seed, score=3, side_px=512, clones=True)[1] for seed in range(40))
    cells = next(table for table in tables if table.clone.nunique() == 2)
    means = cells[cells.invasive].groupby("clone").intensity.mean()
    assert abs(means[0] - means[1]) > 0.1


# --- switches ------------------------------------------------------------------------------------


def test_a_misspelt_artefact_is_named():
    with pytest.raises(ValueError, match=r"blussh.*Did you mean 'blush'"):
        dataset.make_patch(0, blussh=True)


def test_a_switch_moves_one_level_and_leaves_the_others_as_drawn():
    drawn = slide.draw_slide(2)
    plain = slide.set_up_patch(5, None, drawn, {})[1]
    forced = slide.set_up_patch(5, None, drawn, {"dust": True, "edge": 0.5})[1]
    assert forced == plain | {"dust": 1.0, "edge": 0.5 * slide.FORCED["edge"]}
    assert set(slide.set_up_patch(5, None, drawn, OFF)[1].values()) == {0.0}
