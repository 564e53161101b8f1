"""A common field: worked by hand, and no pixel moved where all patches have it already."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from her2lib.data import store
from her2lib.data.common_field import with_common_field


def table_of(mpp, **columns):
    return pd.DataFrame({"mpp": mpp, **columns})


def test_patches_of_one_field_are_read_whole_and_nothing_is_said():
    table, notes = with_common_field(table_of([0.5, 0.5, 0.501]), np.array([960, 960, 960]))
    assert list(table.field_px) == [0, 0, 0]
    assert notes == []


def test_larger_fields_show_their_middle_and_smaller_ones_are_mirrored():
    # 480, 480, 960 and 360 um a side; the median is 480 um
    table, notes = with_common_field(
        table_of([0.5, 0.5, 1.0, 0.25]), np.array([960, 960, 960, 1440])
    )
    assert list(table.field_px) == [0, 0, 480, 1920]
    assert len(notes) == 1
    assert "480 micrometres" in notes[0]
    assert "by their middle alone, 1 of up to 960" in notes[0]
    assert "mirrored at their edges, 1 of 360" in notes[0]


def test_less_than_half_the_field_is_read_whole_and_said():
    table, notes = with_common_field(table_of([0.5, 0.5]), np.array([960, 400]), field_um=480.0)
    assert list(table.field_px) == [0, 0]
    assert notes[0].startswith("Less than half of 480 micrometres a side is shown by 1 patch")


def test_an_estimate_moves_nothing_within_its_uncertainty():
    table = table_of([0.5, 0.6], mpp_from=["stated", "estimated"])
    table, _ = with_common_field(table, np.array([960, 960]), field_um=480.0)
    assert list(table.field_px) == [0, 0]


def test_an_unknown_scale_is_read_whole():
    table, notes = with_common_field(table_of([np.nan, np.nan]), np.array([960, 100]))
    assert list(table.field_px) == [0, 0]
    assert notes == []


@pytest.fixture
def ramp(tmp_path):
    """A file of 64 x 64 px whose columns are 0, 4, 8 … grey levels."""
    pixels = np.repeat(np.arange(64, dtype=np.uint8)[None] * 4, 64, axis=0)
    file = tmp_path / "ramp.png"
    Image.fromarray(np.stack([pixels] * 3, -1)).save(file)
    return file


def test_the_store_reads_the_middle_square_of_the_field(ramp):
    image, side = store.decode_patch(ramp, 32, field_px=32)
    assert side == 32
    assert image[0, 0].tolist() == (np.arange(16, 48) * 4).tolist()


def test_the_store_mirrors_what_is_smaller_than_the_field(ramp):
    image, side = store.decode_patch(ramp, 96, field_px=96)
    assert side == 96
    expected = np.pad(np.arange(64) * 4, 16, mode="reflect")
    assert image[1, 40].tolist() == expected.tolist()


def test_a_store_of_another_field_is_another_store_and_its_mpp_follows(ramp, tmp_path):
    table = pd.DataFrame(
        {"path": [str(ramp)], "name": ["ramp"], "score": [0], "slide": [""], "patient": [""]}
    ).assign(mpp=0.5)
    whole = store.open_store(table, side_px=32, folder=tmp_path / "s", progress=False)
    field = store.open_store(
        table.assign(field_px=32), side_px=32, folder=tmp_path / "s", progress=False
    )
    assert whole.mpp[0] == 1.0
    assert field.mpp[0] == 0.5
    assert not np.array_equal(whole.images.numpy(), field.images.numpy())
