"""Which files are slides, what they are called, and what people's names for them mean."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from examples import picture, slide_pixels, write_slide

from her2lib.files import DataError
from her2lib.slides import slide_files

SHARED = Path(__file__).parents[3] / "shared" / "slides"


@pytest.fixture(scope="module")
def small_slide(tmp_path_factory):
    """A pyramid of 512 px."""
    pixels = slide_pixels()[512:1024, 512:1024]
    return write_slide(tmp_path_factory.mktemp("files") / "S0.tif", pixels)


def link(target, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def put_slide(small_slide, path):
    """Path of a hard link to a small slide: a file as good as any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(small_slide, path)
    return path


def test_a_pyramid_is_a_slide_and_a_small_tiff_a_patch(small_slide, tmp_path):
    assert slide_files.is_slide(small_slide)
    square = np.zeros((1024, 1024, 3), np.uint8)
    tiled = tmp_path / "tiled.tif"
    tifffile.imwrite(tiled, square, tile=(256, 256), photometric="rgb")
    plain = tmp_path / "plain.tif"
    tifffile.imwrite(plain, square, photometric="rgb")
    words = tmp_path / "words.tif"
    words.write_text("no picture")
    for file, patch in ((tiled, True), (plain, True), (words, False)):
        assert not slide_files.is_slide(file)
        assert slide_files.is_patch(file) == patch
    large = tmp_path / "large.tif"
    strip = np.zeros((256, 4352, 3), np.uint8)
    tifffile.imwrite(large, strip, tile=(256, 256), photometric="rgb", compression="zlib")
    assert slide_files.is_slide(large)
    assert not slide_files.is_slide(picture(tmp_path / "a.png", 0))
    assert not slide_files.is_slide(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real slides are not here")
def test_real_slides_are_slides_though_one_has_no_pyramid():
    for file in sorted(SHARED.glob("*.svs")):
        assert slide_files.is_slide(file)
        assert slide_files.slide_format(file) == "aperio"


def test_case_17_junk_links_and_folders_are_left_aside_and_named(small_slide, tmp_path):
    slide = put_slide(small_slide, tmp_path / "S0.tif")
    (tmp_path / "._S0.tif").write_bytes(b"junk")
    link(tmp_path / "gone.svs", tmp_path / "S9.svs")
    (tmp_path / "B.tif").mkdir()
    picture(tmp_path / "B.tif" / "a.png", 0)
    there = slide_files.find_slides([tmp_path])
    assert there.slides == [slide]
    assert list(there.refused) == ["S9.svs"]
    assert "is a link to nothing" in there.refused["S9.svs"]
    assert there.left_aside == [("._S0.tif", "program"), ("B.tif/a.png", "other")]
    assert there.sentences()[0] == "4 files there: 1 slide cut, 1 refused, 2 left aside."


def test_slides_at_the_top_and_below_are_all_there(small_slide, tmp_path):
    for path in ("S0.tif", "aaaa/S1.tif", "aaaa/deep/S2.tif"):
        put_slide(small_slide, tmp_path / path)
    there = slide_files.find_slides([tmp_path, tmp_path / "S0.tif"])
    assert [path.name for path in there.slides] == ["S0.tif", "S1.tif", "S2.tif"]


def test_links_lead_only_where_they_are_allowed(small_slide, tmp_path):
    store = put_slide(small_slide, tmp_path / "store" / "S0.tif")
    path = link(store, tmp_path / "data" / "S0.tif")
    there = slide_files.find_slides([path.parent])
    assert not there.slides
    assert f"--allow {store.parent}" in there.refused["S0.tif"]
    allowed = slide_files.find_slides([path.parent], allow=[store.parent])
    assert allowed.slides == [path]
    assert slide_files.find_slides([path]).slides == [path]


def test_companions_of_a_slide_are_no_slides(tmp_path):
    for path in ("A.mrxs", "A/Slidedat.ini", "A/Data0000.dat", "B.vms", "B(1,0).jpg", "c.jpg"):
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    there = slide_files.find_slides([tmp_path])
    assert [path.name for path in there.slides] == ["A.mrxs", "B.vms"]
    parts = [path for path, code in there.left_aside if code == "part"]
    assert parts == ["A/Data0000.dat", "A/Slidedat.ini", "B(1,0).jpg", "c.jpg"]


def test_the_folder_that_patches_go_to_is_not_looked_into(small_slide, tmp_path):
    put_slide(small_slide, tmp_path / "S0.tif")
    put_slide(small_slide, tmp_path / "tiles2" / "S1.tif")
    picture(tmp_path / "tiles" / "S0" / "a.png", 0)
    (tmp_path / "tiles" / ".lock").write_text("")
    there = slide_files.find_slides([tmp_path], skip=tmp_path / "tiles")
    assert [path.name for path in there.slides] == ["S0.tif", "S1.tif"]
    assert there.left_aside == []
    assert len(slide_files.find_slides([tmp_path], skip=tmp_path.parent).slides) == 2


def write_dicom(path, series):
    """A file that is DICOM as far as its mark and its series go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = series.encode() + b"\0" * (len(series) % 2)
    tag = slide_files.DICOM_SERIES + len(value).to_bytes(2, "little") + value
    path.write_bytes(bytes(128) + b"DICM" + b"\x02\0\0\0" + tag + b"rest")


def test_a_dicom_series_is_one_slide_and_has_its_folders_name(tmp_path):
    for number in range(4):
        write_dicom(tmp_path / "case 7" / f"1.2.{number}.dcm", "1.2.3")
    write_dicom(tmp_path / "two" / "000001", "1.2.4")
    write_dicom(tmp_path / "two" / "000002", "1.2.5")
    (tmp_path / "two" / "README").write_text("no DICOM")
    there = slide_files.find_slides([tmp_path])
    names, _ = slide_files.name_slides(there.slides)
    assert sorted(names.values()) == ["000001", "000002", "case_7"]
    assert [code for _, code in there.left_aside] == ["part"] * 3 + ["other"]


def test_two_slides_of_one_name_have_their_folders_names(tmp_path):
    paths = []
    for folder in ("aaaa", "bbbb"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "S0.tif")
        paths[-1].write_bytes(folder.encode())
    names, sentences = slide_files.name_slides(paths)
    assert list(names.values()) == ["aaaa_S0", "bbbb_S0"]
    assert "aaaa/S0.tif is called aaaa_S0" in sentences[0]
    # a slide that was cut before keeps its name
    earlier = {slide_files.file_identity(paths[0]): "S0"}
    names, _ = slide_files.name_slides(paths, earlier)
    assert list(names.values()) == ["S0", "bbbb_S0"]
    twins = [tmp_path / "aaaa" / "S0.tif", tmp_path / "aaaa" / "s0.svs"]
    with pytest.raises(DataError, match=r"S0.tif and .*s0.svs would both be called"):
        slide_files.name_slides(twins)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("TCGA-A1-0001-01Z-00-DX1.0B34C267.svs", "TCGA-A1-0001-01Z-00-DX1.0B34C267"),
        ("my slide (2).tif", "my_slide_2_"),
        ("=1+1.svs", "_1+1"),
        ("..svs", "slide"),
        ("Müller.ndpi", "Müller"),
    ],
)
def test_a_name_keeps_its_dots_and_never_begins_with_a_sign(path, name):
    assert slide_files.name_of(path) == name


def test_a_name_too_long_for_a_patch_is_shortened_and_stays_one_of_its_kind():
    names = [slide_files.name_of("ä" * 120 + end + ".svs") for end in ("1", "2")]
    assert names[0] != names[1]
    assert all(len(name.encode()) <= 200 for name in names)
    assert slide_files.name_of("a" * 200 + ".svs") == "a" * 200


TCGA = "TCGA-A1-0001-01Z-00-DX1.0B34C267-AA.svs"


@pytest.mark.parametrize(
    ("text", "slide"),
    [
        (TCGA, "TCGA-A1-0001-01Z-00-DX1.0B34C267-AA"),
        ("TCGA-A1-0001-01Z-00-DX1.0B34C267-AA", "TCGA-A1-0001-01Z-00-DX1.0B34C267-AA"),
        ("tcga-a1-0001-01z-00-dx1", "TCGA-A1-0001-01Z-00-DX1.0B34C267-AA"),
        ("TCGA-A1-0001-01Z-00-DX1.svs", "TCGA-A1-0001-01Z-00-DX1.0B34C267-AA"),
        (r"D:\slides\S1.tif", "S1"),
        ("aaaa/S0.tif", "aaaa_S0"),
        ("bbbb/S0", "bbbb_S0"),
        ("aaaa_S0", "aaaa_S0"),
        ("S1", "S1"),
    ],
)
def test_case_39_people_write_a_slide_as_file_stem_or_up_to_its_dot(text, slide):
    names = {
        Path("a") / TCGA: TCGA.removesuffix(".svs"),
        Path("aaaa/S0.tif"): "aaaa_S0",
        Path("bbbb/S0.tif"): "bbbb_S0",
        Path("S1.tif"): "S1",
        Path("S1.2.tif"): "S1.2",
    }
    assert slide_files.match_names([text], names).slide_of == {text: slide}


def test_a_text_that_could_mean_two_slides_means_none():
    names = {
        Path("a/S0.tif"): "a_S0",
        Path("b/S0.tif"): "b_S0",
        Path("X.1.tif"): "X.1",
        Path("X.2.tif"): "X.2",
    }
    matches = slide_files.match_names(["S0", "X", "Y"], names)
    assert matches.slide_of == {}
    assert matches.unclear == {"S0": ["a_S0", "b_S0"], "X": ["X.1", "X.2"]}
    assert matches.unmatched == ["Y"]
