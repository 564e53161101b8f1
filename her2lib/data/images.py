"""Image files of strangers: is each whole, what does it hold, its pixels as plain RGB."""

import contextlib
import hashlib
import io
import json
import os
import stat
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pandas as pd
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from her2lib.data import colours
from her2lib.files import DataError, read_json, usable_cores, write_text

# Named, so that no rarer decoder (PostScript, PSD) meets a stranger's file.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
MAX_PX = 8192**2
MIN_SIDE_PX = 32
MAX_BYTES = 2**28
RULES = 2  # goes up when the same file would be judged otherwise, so kept results are read again

COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "RGBX", "RGBa")
PRINT_MODES = ("CMYK", "LAB", "HSV", "YCbCr")
EXIF_ORIENTATION = 0x0112

# code: (severity, what is wrong, what to do).
# An error leaves the patch out, a warning tells how it is converted.
FAULTS = {
    "missing": (
        "error",
        "there is no such file",
        "correct the path in the manifest or bring the file back",
    ),
    "special": (
        "error",
        "this is a folder or a device, not a file",
        "name an image file",
    ),
    "locked": (
        "error",
        "it may not be read ({})",
        "give yourself the right to read it",
    ),
    "empty": (
        "error",
        "the file is empty (0 bytes)",
        "copy it again from its source",
    ),
    "damaged": (
        "error",
        "the image is cut short or damaged",
        "copy it again from its source",
    ),
    "foreign": (
        "error",
        "this is no PNG, JPEG, TIFF, BMP or WebP image",
        "export the patch as PNG",
    ),
    "huge": (
        "error",
        "{}: a slide or a decompression bomb, not a patch",
        "cut it into patches of at most 8192 x 8192 px",
    ),
    "small": (
        "error",
        "{}: too small to hold a cell",
        "export patches of at least 32 px, better 1024",
    ),
    "grey": (
        "error",
        "the image is grey ({}): brown and blue cannot be told apart",
        "export it in colour, 8 bits a channel",
    ),
    "print": (
        "error",
        "{} colours depend on a profile, without it brown shifts",
        "export it as RGB",
    ),
    "alpha": (
        "warning",
        "it has a transparency channel: it is laid on white",
        "export without transparency",
    ),
    "palette": (
        "warning",
        "it has a palette of at most 256 colours",
        "export it in full colour",
    ),
    "numbers": (
        "error",
        "its numbers cannot be read as colours ({})",
        "export it with 8 bits a channel",
    ),
    "range": (
        "error",
        "its 16-bit numbers fill no range of 8, 10, 12, 14 or 16 bits ({}): too dark, or scaled",
        "export it with 8 bits a channel",
    ),
    "16-bit": (
        "warning",
        "it has 16 bits a channel ({})",
        "export it with 8 bits a channel, if that range is wrong",
    ),
    "profile": (
        "warning",
        "its colours follow a profile other than sRGB: they are moved to sRGB",
        "nothing, or export it in sRGB",
    ),
    "bad profile": (
        "warning",
        "its colour profile cannot be read: the colours are taken as sRGB",
        "export it in sRGB",
    ),
    "turned": (
        "warning",
        "it is turned upright by its EXIF tag",
        "nothing, unless its HE partner has no such tag",
    ),
    "pages": (
        "warning",
        "it has several pages: the first is used",
        "export one page a file",
    ),
}


# --- reading and checking -------------------------------------------------------------------


def read_pixels(source: Path | str | BinaryIO) -> Image.Image:
    """PIL image, RGB, in sRGB: upright by EXIF, transparency on white, no palette.

    16 bits a channel are scaled by the range that they fill (colours.true_depth).
    Raises DataError where the file tells that the pixels cannot be trusted (grey, print, size).
    """
    with Image.open(source, formats=FORMATS) as opened:
        _, fault, detail, notes = _judge_header(opened)
        refuse(source, fault, detail)
        if "16-bit" in notes:
            image = _read_deep(source)
            # Pillow turns a TIFF as it loads it, and its tag is gone then.
            opened.load()
            image.getexif()[EXIF_ORIENTATION] = opened.getexif().get(EXIF_ORIENTATION, 1)
        else:
            image = opened
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return colours.to_srgb(image.convert("RGB"), opened.info.get("icc_profile"))


def probe_files(
    paths: Iterable[str],
    *,
    cache: Path | str | None = None,
    deep: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """DataFrame (digest, side_px (w,h), fault, detail, notes), one row a path; decoded if deep.

    cache: folder that keeps the results of earlier calls; a file that has changed is read again.
    """
    paths = list(paths)
    stamps = {path: _stamp_file(path) for path in dict.fromkeys(paths)}
    checked = _read_cache(cache)
    unread = [path for path in stamps if _must_read(stamps[path], checked.get(path), deep)]
    bar = tqdm(
        unread, desc="checking files", unit="file", disable=not progress or len(unread) < 100
    )

    def probe(path):
        return _probe_file(path, deep)

    fresh = {}
    try:
        with contextlib.closing(map_ahead(probe, bar)) as results:
            for path, facts in zip(unread, results, strict=True):
                stamp, _ = stamps[path]
                fresh[path] = [stamp, deep, *facts]
    finally:
        # What was read before Ctrl-C need not be read again.
        _write_cache(cache, fresh)
    checked |= fresh

    rows = []
    for path in paths:
        _, fault = stamps[path]
        if fault:
            rows.append(_no_image(fault))
        else:
            rows.append(checked[path][2:])
    return pd.DataFrame(rows, columns=["digest", "side_px", "fault", "detail", "notes"])


def stat_files(paths: Iterable[str]) -> pd.DataFrame:
    """DataFrame as of probe_files, of what the file system says alone: nothing is opened."""
    rows = []
    for path in paths:
        _, fault = _stamp_file(path)
        # Its path stands for its bytes: what is listed twice is told.
        rows.append(_no_image(fault, digest=path))
    return pd.DataFrame(rows, columns=["digest", "side_px", "fault", "detail", "notes"])


def refuse(source: object, fault: str, detail: str = "") -> None:
    """Raises DataError, one sentence about a file, where there is a fault (a code in FAULTS)."""
    if fault:
        _, problem, remedy = FAULTS[fault]
        raise DataError(f"{source}: {problem.format(detail)}; {remedy}.")


def map_ahead(work: Callable, items: Iterable, *, workers: int | None = None) -> Generator:
    """Generator of work(item) in order, on threads; at most 4 results a thread wait in memory."""
    # Pillow decodes and resizes outside the interpreter lock: 2 threads and 2 processes both
    # decode 23 patches a second here, and threads leave no orphans after kill -9 and load no
    # second torch.
    workers = workers or usable_cores()
    waiting: deque = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


# --- one file ---------------------------------------------------------------------------------


def _stamp_file(path):
    """([RULES, bytes, mtime, ctime], "") of a file, or (None, fault) where nothing can be read."""
    try:
        facts = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None, "missing"
    except OSError:
        return None, "locked"
    if not stat.S_ISREG(facts.st_mode):
        return None, "special"
    if not facts.st_size:
        return None, "empty"
    # ctime moves even where a copy keeps size and mtime.
    return [RULES, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns], ""


def _must_read(stamped, checked, deep):
    """bool, whether a file is to be read: it is new, it has changed, or it was not yet decoded."""
    stamp, fault = stamped
    if fault:
        return False
    if checked is None:
        return True
    stamp_then, deep_then = checked[:2]
    return stamp_then != stamp or (deep and not deep_then)


def _probe_file(path, deep):
    """[digest, side_px (w,h), fault, detail, notes] of one file."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            return _no_image("huge", "over 256 MB")
        content = Path(path).read_bytes()
    except OSError as error:
        return _no_image("locked", error.strerror)
    # sha256 runs at 1.7 GB/s a core here, blake2b at 0.7.
    digest = hashlib.sha256(content).hexdigest()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            side_px, fault, detail, notes = _judge_header(image)
            if not fault:
                _check_whole(image, content, deep)
        if "16-bit" in notes:
            fault, detail = _judge_range(content)
        return [digest, side_px, fault, detail, notes]
    except UnidentifiedImageError:
        numbers = colours.tiff_numbers(content)
        if numbers:
            return _no_image("numbers", numbers, digest=digest)
        return _no_image("foreign", digest=digest)
    except Image.DecompressionBombError:
        return _no_image("huge", "over 178 million pixels", digest=digest)
    # A stranger's bytes raise anything in a decoder; to the reader it all means the same.
    except Exception:
        return _no_image("damaged", digest=digest)


def _no_image(fault, detail="", digest=""):
    """[digest, side_px, fault, detail, notes] of a file of which not even the size is known."""
    return [digest, [0, 0], fault, detail, []]


def _judge_header(image):
    """[side_px (w,h), fault, detail, notes] of an image that is open but not decoded."""
    width, height = image.size
    side_px = [width, height]
    if width * height > MAX_PX:
        return [side_px, "huge", f"{width} x {height} px", []]
    if min(side_px) < MIN_SIDE_PX:
        return [side_px, "small", f"{width} x {height} px", []]
    if image.mode in PRINT_MODES:
        return [side_px, "print", image.mode, []]
    if image.mode not in COLOUR_MODES:
        return [side_px, "grey", image.mode, []]

    is_deep = colours.has_16_bits(image)
    if is_deep and not colours.can_read_16_bits(image):
        return [side_px, "numbers", "16 bits a channel, stored in a rare order", []]

    profile_note = colours.profile_note(image)
    # getexif would decode a whole PNG to look for a late tag.
    may_be_turned = image.format != "PNG" or "exif" in image.info
    conversions = {
        "alpha": image.has_transparency_data,
        "palette": image.mode in ("P", "PA"),
        "16-bit": is_deep,
        "profile": profile_note == "profile",
        "bad profile": profile_note == "bad profile",
        "turned": may_be_turned and image.getexif().get(EXIF_ORIENTATION, 1) > 1,
        "pages": getattr(image, "n_frames", 1) > 1,
    }
    return [side_px, "", "", [note for note, applies in conversions.items() if applies]]


def _judge_range(content):
    """(fault or "", detail) of a 16-bit image: the range that its values fill, which it decodes."""
    values = colours.read_16_bits(io.BytesIO(content), FORMATS)
    depth = colours.true_depth(values[..., :3])
    fault = ""
    if not depth:
        fault = "range"
    return fault, colours.range_words(values[..., :3], depth)


def _read_deep(source):
    """PIL image, RGB or RGBA of 8 bits, of a 16-bit file; DataError where no range fits."""
    values = colours.read_16_bits(source, FORMATS)
    depth = colours.true_depth(values[..., :3])
    if not depth:
        refuse(source, "range", colours.range_words(values[..., :3], depth))
    return colours.to_8_bit_image(values, depth)


def _check_whole(image, content, deep):
    """Raises what the decoder raises where an open image is cut short or damaged."""
    has_checksums = image.format == "PNG"
    has_end_mark = image.format in ("JPEG", "MPO") and b"\xff\xd9" in content[-64:]
    # Checksums take 2 ms where decoding takes 37.
    if has_checksums:
        image.verify()
    if deep or not (has_checksums or has_end_mark):
        with Image.open(io.BytesIO(content), formats=FORMATS) as reopened:
            reopened.load()


# --- results of earlier calls -----------------------------------------------------------------


def _read_cache(folder):
    """dict path -> [stamp, deep, facts...] from earlier calls; empty without a folder."""
    if not folder:
        return {}
    return read_json(Path(folder, "files.json"))


def _write_cache(folder, fresh):
    """Adds results to folder/files.json. It only saves time, so a full or locked disk warns."""
    if not folder or not fresh:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(folder, "files.lock")):
            # In one line: 100,000 files are many.
            content = json.dumps(_read_cache(folder) | fresh)
            write_text(Path(folder, "files.json"), content)
    except OSError as error:
        warnings.warn(
            f"{folder}: file checks are not kept ({error.strerror}), "
            f"so the next call repeats them.",
            stacklevel=3,
        )
