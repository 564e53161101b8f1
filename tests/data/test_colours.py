"""What the numbers of an image mean: the range of 16-bit files, colour profiles, odd TIFFs."""

import io

import numpy as np
import pytest
import tifffile
from odd_colours import ADOBE, SIDE_PX, SRGB, bright, deep, matrix_profile, png_of_16_bits
from PIL import Image, ImageCms

from her2lib.data import colours, store
from her2lib.data.images import FORMATS, probe_files, read_pixels
from her2lib.files import DataError


def facts_of(path):
    return probe_files([str(path)]).iloc[0]


# --- 16 bits a channel ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"tile": (32, 32)}])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_all_16_bits_of_a_tiff_are_read_whatever_its_order(tmp_path, options, compression):
    values = np.random.default_rng(0).integers(0, 2**16, (SIDE_PX, SIDE_PX, 3), dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="rgb", compression=compression, **options
    )
    read = colours.read_16_bits(tmp_path / "a.tif", FORMATS)
    np.testing.assert_array_equal(read, tifffile.imread(tmp_path / "a.tif"))
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("channels", [3, 4])
def test_all_16_bits_of_a_png_are_read(tmp_path, channels):
    shape = (SIDE_PX, SIDE_PX, channels)
    values = np.random.default_rng(0).integers(0, 2**16, shape, dtype=np.uint16)
    path = png_of_16_bits(tmp_path / "a.png", values)
    np.testing.assert_array_equal(colours.read_16_bits(path, FORMATS), values)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_case_24_16_bit_files_are_scaled_by_the_range_that_they_fill(tmp_path, bits):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, deep(bright(), bits), photometric="rgb")
    pixels = np.asarray(read_pixels(path)).astype(int)
    assert np.abs(pixels - bright()).max() <= 1
    facts = facts_of(path)
    assert facts.fault == ""
    assert facts.notes == ["16-bit"]
    assert f"numbers of {bits} bits" in facts.detail


def test_12_bits_are_scaled_by_hand_to_the_nearest_level(tmp_path):
    values = np.full((SIDE_PX, SIDE_PX, 3), 4095, np.uint16)
    values[0, 0] = (0, 2048, 16)
    path = png_of_16_bits(tmp_path / "a.png", values)
    # 2048 / 4095 * 255 = 127.53, 16 / 4095 * 255 = 0.996
    assert np.asarray(read_pixels(path))[0, 0].tolist() == [0, 128, 1]


def test_numbers_that_fill_no_range_are_refused_with_their_largest(tmp_path):
    path = tmp_path / "a.tif"
    # a third of 12 bits: a dark picture of 12 bits, or one that was scaled
    tifffile.imwrite(path, (bright() * 5.5).astype(np.uint16), photometric="rgb")
    facts = facts_of(path)
    assert facts.fault == "range"
    assert "1,402" in facts.detail
    with pytest.raises(DataError, match="fill no range of 8, 10, 12, 14 or 16 bits"):
        read_pixels(path)
    assert colours.true_depth(np.zeros((4, 4, 3), np.uint16)) == 0


def test_transparency_of_16_bits_is_laid_on_white(tmp_path):
    values = np.full((SIDE_PX, SIDE_PX, 4), 65535, np.uint16)
    values[..., :3] = 4095
    values[:8, :, 3] = 0
    values[:8, :, :3] = 100
    pixels = np.asarray(read_pixels(png_of_16_bits(tmp_path / "a.png", values)))
    assert (pixels == 255).all()


def test_16_bits_are_turned_upright_by_their_tag(tmp_path):
    values = deep(bright(), 12)
    tag = (274, "H", 1, 6, True)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=[tag])
    facts = facts_of(tmp_path / "a.tif")
    assert set(facts.notes) == {"16-bit", "turned"}
    pixels = np.asarray(read_pixels(tmp_path / "a.tif")).astype(int)
    # 6 means: turn by 90 degrees clockwise
    assert np.abs(pixels - np.rot90(bright(), -1)).max() <= 1


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (deep(bright(), 12).transpose(2, 0, 1), {"planarconfig": "separate"}, "rare order"),
        ((bright() / 255).astype(np.float32), {}, "32-bit floating-point"),
        (bright().astype(np.int16), {}, "16-bit signed"),
        (bright().astype(np.uint32), {"bigtiff": True}, "32-bit unsigned"),
    ],
)
def test_numbers_that_are_no_colours_are_refused_by_what_they_are(tmp_path, values, options, words):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ascontiguousarray(values), photometric="rgb", **options)
    facts = facts_of(path)
    assert facts.fault == "numbers"
    assert words in facts.detail


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_words_are_no_tiff():
    assert colours.tiff_numbers(b"no image") == ""
    assert colours.tiff_numbers(b"II*\0torn") == ""


# --- colour profiles ------------------------------------------------------------------------------


def moved_by_hand(pixels, primaries, gamma):
    """(H,W,3) float, levels in sRGB of pixels of a matrix profile, by the textbook's formulas."""
    linear = (pixels / 255) ** gamma
    xyz = linear @ np.array(primaries)
    srgb = (xyz @ np.linalg.inv(np.array(SRGB))).clip(0, 1)
    curved = np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * srgb ** (1 / 2.4) - 0.055)
    return curved * 255


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_profile_other_than_srgb_is_applied_and_told(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    pixels = np.repeat(np.repeat(bright()[::8, ::8], 8, 0), 8, 1)
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    profile = matrix_profile(ADOBE, 2.2)
    Image.fromarray(pixels).save(path, icc_profile=profile, **lossless.get(suffix, {}))
    assert facts_of(path).notes == ["profile"]
    with Image.open(path) as opened:
        stored = np.asarray(opened.convert("RGB"))
    by_hand = moved_by_hand(stored, ADOBE, 2.2)
    assert np.abs(by_hand - stored).max() > 5
    assert np.abs(np.asarray(read_pixels(path)) - by_hand).max() < 2


@pytest.mark.parametrize(
    "profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b""]
)
def test_srgb_and_no_profile_leave_every_pixel_as_it_is(tmp_path, profile):
    Image.fromarray(bright()).save(tmp_path / "a.png", icc_profile=profile)
    assert facts_of(tmp_path / "a.png").notes == []
    np.testing.assert_array_equal(np.asarray(read_pixels(tmp_path / "a.png")), bright())


@pytest.mark.parametrize(
    "profile",
    [b"torn", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()],
)
def test_a_profile_that_cannot_be_read_is_told_and_changes_nothing(tmp_path, profile):
    Image.fromarray(bright()).save(tmp_path / "a.png", icc_profile=profile)
    assert facts_of(tmp_path / "a.png").notes == ["bad profile"]
    np.testing.assert_array_equal(np.asarray(read_pixels(tmp_path / "a.png")), bright())


def test_16_bits_follow_their_profile_too(tmp_path):
    profile = matrix_profile(ADOBE, 2.2)
    tifffile.imwrite(tmp_path / "a.tif", deep(bright(), 12), photometric="rgb", iccprofile=profile)
    assert set(facts_of(tmp_path / "a.tif").notes) == {"16-bit", "profile"}
    by_hand = moved_by_hand(bright(), ADOBE, 2.2)
    assert np.abs(np.asarray(read_pixels(tmp_path / "a.tif")) - by_hand).max() < 3


# --- what stands on these pixels ------------------------------------------------------------------


def test_bytes_and_paths_of_16_bits_decode_alike(tmp_path):
    path = png_of_16_bits(tmp_path / "a.png", deep(bright(), 12))
    by_path, side_px = store.decode_patch(path, 32)
    by_bytes, _ = store.decode_patch(io.BytesIO(path.read_bytes()), 32)
    assert side_px == SIDE_PX
    np.testing.assert_array_equal(by_path, by_bytes)


def test_results_kept_under_older_rules_are_read_again(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", deep(bright(), 12), photometric="rgb")
    cache = tmp_path / "cache"
    probe_files([str(tmp_path / "a.tif")], cache=cache)
    kept_results = cache / "files.json"
    older = kept_results.read_text().replace("[[2, ", "[[")
    kept_results.write_text(older)
    assert "12 bits" in probe_files([str(tmp_path / "a.tif")], cache=cache).detail[0]
