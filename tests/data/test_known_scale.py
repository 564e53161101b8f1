"""The scale of files that state none: estimated once for a size, kept, and said."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from her2lib.data import known_scale
from her2lib.data.known_scale import with_known_scale
from her2lib.phantoms import dataset


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """DataFrame path, mpp NaN of six phantoms of 256 px at 0.5 um, and their sizes."""
    folder = tmp_path_factory.mktemp("phantoms")
    paths = []
    for seed in range(6):
        phantom = dataset.make_patch(seed, score=seed % 4, side_px=256, mpp=0.5, truth=False)
        Image.fromarray(phantom.image).save(folder / f"{seed}.png")
        paths.append(str(folder / f"{seed}.png"))
    return pd.DataFrame({"path": paths, "mpp": np.nan})


def test_the_scale_of_phantoms_is_estimated_for_all_of_one_size_together(phantoms):
    table, sentences = with_known_scale(phantoms, [(256, 256)] * 6)
    assert table.mpp.nunique() == 1
    assert table.mpp[0] == pytest.approx(0.5, rel=0.3)
    assert set(table.mpp_from) == {"estimated"}
    assert len(sentences) == 1
    assert "6 patches of 256 x 256 px" in sentences[0]
    assert "--mpp" in sentences[0]


def test_what_is_stated_stays_and_is_not_looked_at(phantoms, monkeypatch):
    stated = phantoms.assign(mpp=0.25)
    monkeypatch.setattr(known_scale, "read_pixels", None)
    table, sentences = with_known_scale(stated, [(256, 256)] * 6)
    assert list(table.mpp) == [0.25] * 6
    assert set(table.mpp_from) == {"stated"}
    assert sentences == []


def test_a_second_call_opens_no_picture(phantoms, tmp_path, monkeypatch):
    first, _ = with_known_scale(phantoms, [(256, 256)] * 6, cache=tmp_path)
    monkeypatch.setattr(known_scale, "read_pixels", None)
    second, _ = with_known_scale(phantoms, [(256, 256)] * 6, cache=tmp_path)
    assert list(first.mpp) == list(second.mpp)


def test_pictures_that_tell_no_scale_keep_none_and_the_assumption_is_said(tmp_path):
    Image.fromarray(np.full((128, 128, 3), 240, np.uint8)).save(tmp_path / "glass.png")
    table = pd.DataFrame({"path": [str(tmp_path / "glass.png")], "mpp": [np.nan]})
    table, sentences = with_known_scale(table, [(128, 128)])
    assert table.mpp.isna().all()
    assert list(table.mpp_from) == [""]
    assert "480 um a side" in sentences[0]
