"""The scale of a picture, against phantoms whose scale is known, and by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from her2lib.data import blob_filters, scale
from her2lib.phantoms import dataset, slide

REAL = Path(__file__).parents[3] / "shared" / "real"
RNG = np.random.default_rng(0)


def phantoms(count, mpp, *, side_px=256):
    """(count,3,side_px,side_px) uint8 phantoms of laboratories that the fit did not see."""
    pictures = []
    for number in range(count):
        plan = slide.draw_slide([77, number], laboratory=300 + number, score=number % 4)
        phantom = dataset.make_patch(
            [900 + number], side_px=side_px, mpp=mpp, slide=plan, truth=False, pen=False
        )
        pictures.append(phantom.image.transpose(2, 0, 1))
    return np.stack(pictures)


@pytest.fixture(scope="module")
def usual():
    """(6,3,256,256) uint8 phantoms of 0.5 um a pixel."""
    return phantoms(6, 0.5)


def resized(images, side_px):
    """(N,3,side_px,side_px) uint8."""
    pictures = []
    for image in images:
        picture = Image.fromarray(image.transpose(1, 2, 0)).resize((side_px, side_px))
        pictures.append(np.asarray(picture).transpose(2, 0, 1))
    return np.stack(pictures)


def estimates(*mpps, reason="it is too pale"):
    """DataFrame as estimate_mpp gives it; NaN is a picture that does not answer."""
    reasons = ["" if np.isfinite(mpp) else reason for mpp in mpps]
    return pd.DataFrame({"mpp": mpps, "low": mpps, "high": mpps, "reason": reasons})


# --- pictures whose scale is known ---------------------------------------------------------------


@pytest.mark.parametrize("mpp", [0.28, 0.9])
def test_pictures_of_unseen_laboratories_are_told_within_a_quarter(mpp):
    together = scale.estimate_set_mpp(phantoms(5, mpp))
    assert together.mpp == pytest.approx(mpp, rel=0.25)
    assert together.low <= mpp <= together.high
    assert together.reason == ""


def test_each_picture_has_an_interval_around_its_estimate(usual):
    table = scale.estimate_mpp(usual)
    assert table["mpp"].median() == pytest.approx(0.5, rel=0.15)
    answered = table[table["mpp"].notna()]
    assert len(answered) >= 5
    assert (answered["low"] < answered["mpp"]).all()
    assert (answered["mpp"] < answered["high"]).all()
    assert ((answered["low"] <= 0.5) & (answered["high"] >= 0.5)).mean() >= 0.6


def test_the_estimate_follows_a_resizing_of_the_picture(usual):
    straight = scale.estimate_set_mpp(usual).mpp
    assert scale.estimate_set_mpp(resized(usual, 384)).mpp == pytest.approx(straight / 1.5, rel=0.2)
    assert scale.estimate_set_mpp(resized(usual, 160)).mpp == pytest.approx(straight * 1.6, rel=0.2)


def test_tensors_and_arrays_answer_alike(usual):
    of_array = scale.estimate_mpp(usual[:2])
    pd.testing.assert_frame_equal(of_array, scale.estimate_mpp(torch.from_numpy(usual[:2])))


def test_real_patches_come_to_what_their_cells_say():
    files = sorted((REAL / "patches").glob("*_r0c0.jpg"))
    if not files:
        pytest.skip("../shared/real is absent")
    pictures = [np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files]
    together = scale.estimate_set_mpp(np.stack(pictures))
    # no scale is stated; red cells of 6 to 7 um are about 10 px wide, nuclei 13 to 20 px
    assert together.n_answered == len(files)
    assert 0.4 < together.mpp < 0.7
    assert together.high > 0.6


# --- pictures that do not tell -------------------------------------------------------------------


def test_small_pictures_are_not_guessed_at():
    table = scale.estimate_mpp(np.full((1, 3, 95, 200), 200, np.uint8))
    assert table["mpp"].isna().all()
    assert "95 px wide" in table["reason"][0]


@pytest.mark.parametrize(
    "picture",
    [
        np.full((128, 128, 3), 244),
        np.zeros((128, 128, 3)),
        RNG.integers(0, 256, (128, 128, 3)),
        245 + RNG.normal(0, 2, (128, 128, 3)),
        np.linspace(0, 255, 128)[:, None, None] * np.ones((1, 128, 3)),
    ],
    ids=["glass", "black", "noise", "noisy glass", "gradient"],
)
def test_what_shows_no_tissue_has_no_scale(picture):
    image = np.clip(picture, 0, 255).astype(np.uint8).transpose(2, 0, 1)
    row = scale.estimate_mpp(image[None]).iloc[0]
    assert np.isnan([row.mpp, row.low, row.high]).all()
    assert row.reason


def test_overviews_are_refused_not_read_as_close_views():
    table = scale.estimate_mpp(phantoms(4, 3.0, side_px=192))
    assert table["mpp"].isna().all()
    assert table["reason"].str.len().gt(0).all()


@pytest.mark.parametrize(
    "images", [np.zeros((1, 3, 96, 96)), np.zeros((1, 96, 96, 3), np.uint8), np.zeros((0, 3, 9, 9))]
)
def test_arrays_that_are_no_images_are_refused_in_a_sentence(images):
    for ask in (scale.estimate_mpp, scale.estimate_set_mpp):
        with pytest.raises(ValueError, match="permute and stack them"):
            ask(images)


# --- a set ---------------------------------------------------------------------------------------


def test_a_set_has_the_median_and_an_interval_by_hand():
    together = scale.pool_mpp(estimates(0.4, 0.5, 0.5, 0.6, np.nan))
    spread = (np.log(0.525) - np.log(0.475)) / 1.349
    assert together.mpp == pytest.approx(0.5)
    assert together.spread == pytest.approx(spread, rel=0.03)
    half = np.hypot(scale.ORIGIN, 1.645 * 1.253 * together.spread / 2)
    assert together.low == pytest.approx(0.5 * np.exp(-half))
    assert together.high == pytest.approx(0.5 * np.exp(half))
    assert (together.n_images, together.n_answered) == (5, 4)


def test_the_sentence_says_what_was_read_and_how_to_overrule_it():
    text = scale.pool_mpp(estimates(0.5, 0.5, 0.5, 0.5, np.nan)).sentence()
    assert text.startswith("About 0.50 um a pixel (0.41 to 0.61)")
    assert "4 of 5 pictures" in text
    assert "--mpp" in text
    assert "mixed" not in text


def test_a_set_of_several_scales_says_so():
    text = scale.pool_mpp(estimates(0.25, 0.26, 0.25, 0.9, 1.0, 0.95)).sentence()
    assert "several scales may be mixed" in text


def test_a_set_that_mostly_does_not_answer_has_no_scale():
    together = scale.pool_mpp(estimates(0.5, np.nan, np.nan))
    assert np.isnan([together.mpp, together.low, together.high]).all()
    assert together.n_answered == 1
    assert "not shown by 2 of 3 pictures, mostly because it is too pale" in together.sentence()
    assert "--mpp" in together.sentence()


def test_of_a_large_set_some_pictures_are_looked_at_from_end_to_end(usual):
    together = scale.estimate_set_mpp(usual, most=3)
    by_hand = scale.pool_mpp(scale.estimate_mpp(usual[[0, 2, 5]]))
    assert together.n_images == 3
    assert together.mpp == by_hand.mpp


# --- the table -----------------------------------------------------------------------------------


def test_the_table_reads_features_that_the_filters_give(usual):
    row = blob_filters.features(usual[0].astype(np.float32))
    assert list(row) == list(scale.TABLE)
    assert all(len(values) == 5 for values in scale.TABLE.values())


def test_estimating_brings_no_torch():
    code = (
        "import sys, numpy, her2lib.data.scale as s;"
        "s.estimate_mpp(numpy.zeros((1, 3, 96, 96), 'uint8')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
