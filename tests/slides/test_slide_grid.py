"""One slide: its pixel size, its grid, and a field resampled from the level that has the detail."""

from types import SimpleNamespace

import numpy as np
import openslide
import pytest
from examples import SLIDE_MPP as MPP
from examples import slide_pixels, write_slide
from PIL import Image

from her2lib.files import DataError
from her2lib.slides import slide_grid


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("grid") / "one.tif", slide_pixels())


def test_another_magnification_is_resampled_from_the_nearest_finer_level(slide_file):
    with slide_grid.open_slide(slide_file) as slide:
        grid = slide_grid.grid_of(slide, slide_file, mpp=1.25, side_px=200, slide_mpp=MPP)
        assert (grid.level, grid.read_px, grid.step) == (1, 250, 500)
        assert grid.mpp == pytest.approx(1.25)
        field = np.asarray(slide_grid.read_field(slide, grid, 500, 500), float)
        region = slide.read_region((500, 500), 0, (500, 500)).convert("RGB")
        whole = np.asarray(region.resize((200, 200), Image.Resampling.BOX), float)
        assert np.abs(field - whole).mean() < 8
        # the level itself, unresampled
        same = slide_grid.grid_of(slide, slide_file, mpp=1.0, side_px=200, slide_mpp=MPP)
        assert same.read_px == 200


def test_openslide_agrees_on_the_pixel_size(slide_file):
    with slide_grid.open_slide(slide_file) as slide:
        assert slide_grid.pixel_size(slide, "one") == pytest.approx(MPP)
        with pytest.raises(DataError, match="leave the option out"):
            slide_grid.pixel_size(slide, "one", 0.25)
        assert isinstance(slide, openslide.OpenSlide)


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({}, "states no mpp"),
        ({"openslide.mpp-x": "460", "openslide.mpp-y": "460"}, "which no microscope has"),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}, "oblong pixels"),
    ],
)
def test_a_pixel_size_that_cannot_be_is_a_sentence(stated, says):
    with pytest.raises(DataError, match=says):
        slide_grid.pixel_size(SimpleNamespace(properties=stated), "one")
    plain = SimpleNamespace(properties={})
    assert slide_grid.pixel_size(plain, "one", 0.25) == 0.25


def test_case_19_a_slide_of_too_few_pixels_is_refused_or_enlarged_as_the_user_chose(tmp_path):
    slide_file = write_slide(tmp_path / "coarse.tif", slide_pixels(), mpp=0.9)
    with slide_grid.open_slide(slide_file) as slide:
        with pytest.raises(
            DataError, match=r"0\.9 micro.* 2 times the 0\.46.*--mpp 0\.9, or --enl"
        ):
            slide_grid.grid_of(slide, slide_file, mpp=0.46, side_px=512, slide_mpp=0.9)
        grid = slide_grid.grid_of(
            slide, slide_file, mpp=0.46, side_px=512, slide_mpp=0.9, enlarge=True
        )
        assert grid.mpp == pytest.approx(0.46, rel=0.005)
        assert slide_grid.enlargement(grid.mpp, 0.9) == pytest.approx(0.9 / 0.46, rel=0.005)
        with pytest.raises(DataError, match=r"0\.9 micro.* 3\.6 times the 0\.25.*--mpp 0\.9\."):
            slide_grid.grid_of(
                slide, slide_file, mpp=0.25, side_px=512, slide_mpp=0.9, enlarge=True
            )


def test_a_slide_of_20x_serves_for_patches_of_bci(slide_file):
    with slide_grid.open_slide(slide_file) as slide:
        grid = slide_grid.grid_of(slide, slide_file, mpp=0.46, side_px=256, slide_mpp=0.5)
    assert slide_grid.enlargement(grid.mpp, 0.5) == pytest.approx(1.087, abs=0.005)
    assert slide_grid.enlargement(0.5, 0.5) == slide_grid.enlargement(1.0, 0.5) == 1


def test_a_tiff_without_tiles_is_told_from_a_damaged_slide(tmp_path):
    plain = tmp_path / "plain.tif"
    Image.new("RGB", (64, 64)).save(plain)
    with pytest.raises(DataError, match="without tiles must be converted into a pyramid"):
        slide_grid.open_slide(plain)
    plain.write_text("words")
    with pytest.raises(DataError, match="copy it again from its source"):
        slide_grid.open_slide(plain)


def test_a_stated_length_that_is_no_number_counts_as_not_stated():
    stated = SimpleNamespace(properties={"openslide.mpp-x": "n/a", "openslide.mpp-y": "0.5"})
    with pytest.raises(DataError, match="states no mpp"):
        slide_grid.pixel_size(stated, "one")
