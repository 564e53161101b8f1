"""Fields of a slide: what the log knows is not cut again, another slide's log is refused."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from examples import SLIDE_MPP as MPP
from examples import slide_pixels, write_slide

from her2lib.files import DataError
from her2lib.slides import field_cutter, slide_files, slide_grid

WHITE = np.full(3, 236.0)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A pyramid of 512 px, its grid of fields of 256 px."""
    pixels = slide_pixels()[768:1280, 768:1280]
    file = write_slide(tmp_path_factory.mktemp("cutter") / "S0.tif", pixels)
    with slide_grid.open_slide(file) as handle:
        grid = slide_grid.grid_of(handle, file, mpp=MPP, side_px=256, slide_mpp=MPP)
    return file, grid


def plan():
    """Four fields of which the last is blank."""
    fields = pd.DataFrame({"x": [0, 256, 0, 256], "y": [0, 0, 256, 256], "tissue": 1.0})
    reasons = ["", "", "", "blank"]
    return fields.assign(reason=reasons, dab=np.nan, sharpness=np.nan, eosin=np.nan)


def cut(slide, folder, **more):
    file, grid = slide
    name, n_bytes, time_ns = slide_files.file_identity(file)
    settings = {"mpp": MPP, "path": name, "file": [n_bytes, time_ns]} | more
    fields = plan()
    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(1) as pool:
        field_cutter.cut_fields(fields, folder, grid, WHITE, settings=settings, pool=pool)
    return fields


def test_fields_are_cut_measured_and_logged_once(slide, tmp_path):
    folder = tmp_path / "S0"
    fields = cut(slide, folder)
    assert fields.reason.tolist()[1:] == ["", "", "blank"]
    assert fields.eosin[1:3].tolist() == [0.0, 0.0]
    assert fields.dab[1:3].between(0, 1).all()
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*.png")}
    pd.testing.assert_frame_equal(cut(slide, folder), fields)
    assert {file: file.stat().st_mtime_ns for file in folder.glob("*.png")} == before
    assert field_cutter.cut_before(tmp_path) == {slide_files.file_identity(slide[0]): "S0"}


def test_a_log_of_an_earlier_version_lacks_a_measure_and_serves(slide, tmp_path):
    folder = tmp_path / "S0"
    cut(slide, folder)
    log = folder / field_cutter.LOG
    log.write_text(log.read_text().replace(', "eosin": 0.0', ""))
    fields = cut(slide, folder)
    assert fields.reason.tolist()[1:] == ["", "", "blank"]
    assert pd.to_numeric(fields.eosin)[1:].isna().all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mpp": 0.25}, "was cut with mpp 0.5, not 0.25"),
        ({"file": [1, 2]}, "was cut from another S0.tif than the one there now"),
    ],
)
def test_other_settings_and_another_file_are_refused(slide, tmp_path, change, says):
    cut(slide, tmp_path / "S0")
    with pytest.raises(DataError, match=says):
        cut(slide, tmp_path / "S0", **change)


@pytest.mark.parametrize("first_line", ["no json", "{}", "[1]", '{"settings": 3}'])
def test_a_log_that_is_none_is_refused_in_a_sentence(slide, tmp_path, first_line):
    cut(slide, tmp_path / "S0")
    log = tmp_path / "S0" / field_cutter.LOG
    log.write_text("\n".join([first_line, *log.read_text().split("\n")[1:]]))
    assert field_cutter.cut_before(tmp_path) == {}
    with pytest.raises(DataError, match="give another --out or delete it"):
        cut(slide, tmp_path / "S0")
    log.unlink()
    cut(slide, tmp_path / "S0")
    log.write_text(log.read_text() + "damaged\nlines\n")
    with pytest.raises(DataError, match="is damaged: delete"):
        cut(slide, tmp_path / "S0")
