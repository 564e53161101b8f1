"""What the numbers of an image file mean: the range that 16 bits hide, profiles other than sRGB."""

import io
import sys
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT, ImageFileDirectory_v2

# What cameras and scanners deliver in files of 16 bits a channel.
DEPTHS = (8, 10, 12, 14, 16)
# 32 real patches and 24 phantoms: a thousandth of all values lies above 91 to 100 % of the range,
# because there is glass in light. Between two depths lies a factor of 4, so half tells them apart.
LEAST_BRIGHT = 0.5
BRIGHT_QUANTILE = 0.999
# Pillow's words for an order of bytes and for the other one, in which it gives the lower 8 bits
# of 16 where the first gives the upper 8.
OTHER_ORDER = {"B": "L", "L": "B", "N": {"little": "B", "big": "L"}[sys.byteorder]}
SIXTEEN_BITS = (
    *("RGB;16B", "RGB;16L", "RGB;16N"),
    *("RGBA;16B", "RGBA;16L", "RGBA;16N"),
    *("RGBX;16B", "RGBX;16L", "RGBX;16N"),
)
# A profile that moves no colour by more grey levels than this is sRGB: scanners write copies of
# sRGB whose curves are rounded otherwise, which differ from each other by 1.
SAME_LEVELS = 2
# How TIFF calls its numbers.
NUMBER_KINDS = {1: "unsigned", 2: "signed", 3: "floating-point"}
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


# --- 16 bits a channel ----------------------------------------------------------------------------


def has_16_bits(image: ImageFile) -> bool:
    """bool, whether an open image holds 16 bits a channel."""
    if ";16" in str(image.tile):
        return True
    # Channels in planes apart say so in no tile.
    return max(_bits(image), default=8) > 8


def can_read_16_bits(image: ImageFile) -> bool:
    """bool, whether read_16_bits knows how the channels of an open 16-bit image are stored."""
    return all(_raw_mode(tile.args) in SIXTEEN_BITS for tile in image.tile)


def read_16_bits(source: Path | str | BinaryIO, formats: tuple[str, ...]) -> np.ndarray:
    """(H,W,3 or 4) uint16, all 16 bits a channel of an image file, of which Pillow keeps 8."""
    halves = []
    for is_lower in (False, True):
        if not isinstance(source, (str, Path)):
            source.seek(0)
        with Image.open(source, formats=formats) as image:
            if is_lower:
                image.tile = [_with_other_order(tile) for tile in image.tile]
            image.load()
            halves.append(np.asarray(image).astype(np.uint16))
    upper, lower = halves
    return upper << 8 | lower


def true_depth(values: np.ndarray) -> int:
    """int, the bits of the range that 16-bit values fill: 8, 10, 12, 14 or 16; 0 if none fits.

    The smallest range that holds the largest value, if a thousandth of values fills half of it.

    Example: true_depth(np.full((64, 64, 3), 4000, np.uint16)) is 12
    """
    largest = int(values.max())
    depth = next(bits for bits in DEPTHS if largest < 2**bits)
    if np.quantile(values, BRIGHT_QUANTILE) < LEAST_BRIGHT * (2**depth - 1):
        return 0
    return depth


def to_8_bits(values: np.ndarray, depth: int) -> np.ndarray:
    """uint8 of uint16 values that fill a range of depth bits; of 16 bits the upper 8."""
    if depth == 16:
        return (values >> 8).astype(np.uint8)
    largest = 2**depth - 1
    scaled = (values.astype(np.uint32) * 255 + largest // 2) // largest
    return scaled.astype(np.uint8)


def range_words(values: np.ndarray, depth: int) -> str:
    """str, what 16-bit values were taken for, or why they fit no range."""
    largest = int(values.max())
    # The same words for every file of a depth: sentences about many files gather these.
    if depth:
        return f"by the largest they are taken for numbers of {depth} bits"
    bright = int(np.quantile(values, BRIGHT_QUANTILE))
    return f"the largest is {largest:,}, and 99.9 % are at most {bright:,}"


def to_8_bit_image(values: np.ndarray, depth: int) -> Image.Image:
    """PIL image, RGB or RGBA, of (H,W,3 or 4) uint16; transparency has a range of its own."""
    colours = to_8_bits(values[..., :3], depth)
    if values.shape[-1] == 3:
        return Image.fromarray(colours)
    alpha = values[..., 3:]
    largest = int(alpha.max())
    alpha_depth = next(bits for bits in DEPTHS if largest < 2**bits)
    return Image.fromarray(np.concatenate([colours, to_8_bits(alpha, alpha_depth)], axis=2))


def tiff_numbers(content: bytes) -> str:
    """str, what a TIFF that Pillow cannot read holds, as "32-bit floating-point"; "" for others."""
    if content[:4] not in TIFF_STARTS:
        return ""
    header_bytes = 8
    # BigTIFF
    if b"+" in content[2:4]:
        header_bytes = 16
    file = io.BytesIO(content)
    try:
        directory = ImageFileDirectory_v2(file.read(header_bytes))
        file.seek(directory.next)
        directory.load(file)
        bits = max(directory[BITSPERSAMPLE])
        kind = NUMBER_KINDS.get(max(directory.get(SAMPLEFORMAT, (1,))), "other")
    # A stranger's bytes raise anything in a decoder.
    except Exception:
        return ""
    return f"{bits}-bit {kind}"


def _bits(image):
    """tuple of int, the bits of each channel as a TIFF's header states them; () for others."""
    return getattr(image, "tag_v2", {}).get(BITSPERSAMPLE, ())


def _raw_mode(arguments):
    """str, Pillow's word for how pixels are stored, as RGB;16B."""
    if isinstance(arguments, str):
        return arguments
    return arguments[0]


def _with_other_order(tile):
    """Pillow's tile with the other order of bytes, so that the lower 8 of 16 bits are read."""
    arguments = tile.args
    raw_mode = _raw_mode(arguments)
    other = raw_mode[:-1] + OTHER_ORDER[raw_mode[-1]]
    if isinstance(arguments, str):
        return tile._replace(args=other)
    return tile._replace(args=(other, *arguments[1:]))


# --- colour profiles ------------------------------------------------------------------------------


def profile_note(image: Image.Image) -> str:
    """str, "profile" where an open image follows one other than sRGB, "bad profile" or ""."""
    content = image.info.get("icc_profile")
    if not content:
        return ""
    try:
        if _to_srgb_transform(content) is None:
            return ""
    except _BadProfileError:
        return "bad profile"
    return "profile"


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """PIL image, RGB, in sRGB: its colours moved from the profile embedded in its file, if any.

    A profile that is sRGB, and one that cannot be read, leave the pixels as they are.
    """
    if not profile:
        return image
    try:
        transform = _to_srgb_transform(profile)
    except _BadProfileError:
        return image
    if transform is None:
        return image
    moved = ImageCms.applyTransform(image, transform)
    # Only a change in place gives back nothing.
    assert moved is not None
    return moved


class _BadProfileError(ValueError):
    """A profile that cannot be read, or that is none of RGB colours."""


@lru_cache(maxsize=64)
def _to_srgb_transform(content):
    """ImageCms transform of a profile's bytes to sRGB; None where it changes nothing."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.PERCEPTUAL,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise _BadProfileError from error
    # What a profile does shows on a lattice of 9 x 9 x 9 colours.
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(lattice), transform))
    if np.abs(moved.astype(int) - lattice).max() <= SAME_LEVELS:
        return None
    return transform
