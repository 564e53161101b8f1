"""Copies for browsers: the pixels that networks see, no words of the file they come from."""

import numpy as np
import pytest
import tifffile
from odd_colours import ADOBE, bright, deep, matrix_profile, png_of_16_bits
from PIL import Image, PngImagePlugin

from her2lib.data.browser_copies import write_browser_copy
from her2lib.data.images import read_pixels
from her2lib.files import DataError

SECRET = "scored 3+"


def written_with_words(path):
    """Path of an image that says its score in a comment and in its EXIF."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", SECRET)
    exif = Image.Exif()
    exif[0x010E] = SECRET
    options = {
        ".png": {"pnginfo": text},
        ".jpg": {"comment": SECRET, "xmp": SECRET.encode(), "progressive": True},
        ".webp": {"lossless": True, "xmp": SECRET.encode()},
    }
    Image.fromarray(bright()).save(path, exif=exif, **options[path.suffix])
    assert SECRET.encode() in path.read_bytes()
    return path


def assert_shows_the_same(copy, source):
    np.testing.assert_array_equal(np.asarray(Image.open(copy)), np.asarray(read_pixels(source)))


@pytest.mark.parametrize(("suffix", "wanted"), [("png", "png"), ("jpg", "jpg"), ("webp", "png")])
def test_a_copy_has_the_pixels_and_none_of_the_words(tmp_path, suffix, wanted):
    source = written_with_words(tmp_path / f"a.{suffix}")
    copy = write_browser_copy(source, tmp_path / "sheet" / "123")
    assert copy == tmp_path / "sheet" / f"123.{wanted}"
    assert SECRET.encode() not in copy.read_bytes()
    assert_shows_the_same(copy, source)


def test_a_plain_jpeg_is_not_encoded_again(tmp_path):
    Image.fromarray(bright()).save(tmp_path / "a.jpg", quality=80)
    copy = write_browser_copy(tmp_path / "a.jpg", tmp_path / "b")
    assert copy.read_bytes() == (tmp_path / "a.jpg").read_bytes()


def test_words_after_the_end_of_a_file_stay_behind(tmp_path):
    for suffix in ("png", "jpg"):
        source = tmp_path / f"a.{suffix}"
        Image.fromarray(bright()).save(source)
        source.write_bytes(source.read_bytes() + SECRET.encode())
        copy = write_browser_copy(source, tmp_path / f"copy_{suffix}")
        assert SECRET.encode() not in copy.read_bytes()
        assert_shows_the_same(copy, source)


def test_case_23_what_no_browser_shows_becomes_a_png(tmp_path):
    Image.fromarray(bright()).save(tmp_path / "a.tif")
    Image.fromarray(bright()).save(tmp_path / "b.bmp")
    tifffile.imwrite(tmp_path / "c.tif", deep(bright(), 12), photometric="rgb")
    png_of_16_bits(tmp_path / "d.png", deep(bright(), 16))
    Image.fromarray(bright()).save(tmp_path / "e.png", icc_profile=matrix_profile(ADOBE, 2.2))
    for name in ("a.tif", "b.bmp", "c.tif", "d.png", "e.png"):
        copy = write_browser_copy(tmp_path / name, tmp_path / "copies" / name[0])
        assert copy.suffix == ".png"
        assert_shows_the_same(copy, tmp_path / name)
        with Image.open(copy) as shown:
            assert "icc_profile" not in shown.info


def test_a_turned_photograph_is_copied_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(bright()[:32]).save(tmp_path / "a.jpg", exif=exif)
    copy = write_browser_copy(tmp_path / "a.jpg", tmp_path / "b")
    assert copy.suffix == ".png"
    assert Image.open(copy).size == (32, 48)
    assert_shows_the_same(copy, tmp_path / "a.jpg")


def test_no_image_is_a_sentence(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match="no PNG, JPEG"):
        write_browser_copy(tmp_path / "a.png", tmp_path / "b")
