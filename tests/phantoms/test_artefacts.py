"""Artefacts: each can be switched, is recorded, shows where it should, and moves no other."""

from dataclasses import replace

import numpy as np
import pytest
from examples import brownness

from her2lib.phantoms import artefacts, dataset, slide

OFF = dict.fromkeys(slide.ARTEFACTS, False)
SMALL = {"side_px": 256, "mpp": 0.5}
# these need their tissue, which a window may lack
NEED_TISSUE = ("necrosis", "haemosiderin", "folds", "crushed")


@pytest.mark.parametrize(
    "name", [n for n in slide.ARTEFACTS if n not in ("clones", "in_situ", "edge")]
)
def test_an_artefact_can_be_switched_on_is_recorded_and_shows(name):
    drawn = slide.draw_slide(2, score=1)
    at_um = dataset.find_window(0, drawn, side_um=256, score=1, **OFF)
    plain, shown = (
        dataset.make_patch(0, slide=drawn, at_um=at_um, side_px=256, mpp=1.0, **(OFF | more))
        for more in ({}, {name: True})
    )
    assert not any(plain.artefacts.values())
    if not shown.artefacts[name]:
        assert name in NEED_TISSUE
        assert (plain.image == shown.image).all()
    else:
        assert (plain.image != shown.image).any()
        assert shown.score == plain.score or name == "necrosis"


def test_edge_stain_needs_an_edge():
    core = replace(slide.draw_slide(2, score=0), core_um=100.0, core_at=(0.0, 0.0))
    plain, edged = (
        dataset.make_patch(
            0, slide=core, at_um=(-128, -128), side_px=256, mpp=1.0, **(OFF | {"edge": edge})
        )
        for edge in (False, True)
    )
    from_middle = np.hypot(*(np.indices((256, 256)) - 127.5))
    rim = (from_middle > 70) & (from_middle < 95)
    middle = from_middle < 20
    change = plain.image[..., 2].astype(int) - edged.image[..., 2]
    assert change[rim].mean() > 5 * max(change[middle].mean(), 0.5)


def test_blush_in_a_score_0_patch_browns_the_tumour_without_changing_the_score():
    plain, blushed = (
        dataset.make_patch(41, score=0, **SMALL, **(OFF | {"blush": level}))
        for level in (False, True)
    )
    assert plain.score == blushed.score == 0
    assert brownness(blushed) > brownness(plain) + 5


def test_stain_without_damage_is_not_in_the_artefact_mask():
    blushed = dataset.make_patch(41, score=0, **SMALL, **(OFF | {"blush": True}))
    dusty = dataset.make_patch(41, score=0, **SMALL, **(OFF | {"dust": True}))
    assert blushed.artefacts["blush"]
    assert not blushed.masks["artefact"].any()
    assert dusty.masks["artefact"].any()


def test_switching_one_artefact_leaves_the_others_where_they_were():
    dusty, both = (
        dataset.make_patch(41, score=0, **SMALL, **(OFF | {"dust": True} | more))
        for more in ({}, {"blush": True})
    )
    assert both.artefacts["blush"]
    assert (dusty.masks["artefact"] == both.masks["artefact"]).all()


def test_every_artefact_is_painted_but_clones_and_ducts_which_the_cells_show():
    assert ("clones", "in_situ", *artefacts.PAINTERS) == slide.ARTEFACTS
    assert set(artefacts.NO_DAMAGE) < set(artefacts.PAINTERS)
