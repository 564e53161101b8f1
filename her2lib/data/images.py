"""Image files of strangers: is each whole, what does it hold, its pixels as plain RGB; nothing is trusted, nothing guessed."""

import contextlib
import hashlib
import io
import json
import os
import stat
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from her2lib.files import read_json, usable_cores, write_text

FORMATS = (
    "PNG",
    "JPEG",
    "TIFF",
    "BMP",
    "WEBP",
)  # named, so that no rarer decoder (PostScript, PSD) meets a stranger's file
MAX_PX, MIN_SIDE_PX, MAX_BYTES = 8192**2, 32, 2**28
# code: severity, what is wrong, what to do; an error leaves the patch out, a warning tells how it
# is converted
FAULTS = {
    "missing": (
        "error",
        "there is no such file",
        "correct the path in the manifest or bring the file back",
    ),
    "special": ("error", "this is a folder or a device, not a file", "name an image file"),
    "locked": ("error", "it may not be read ({})", "give yourself the right to read it"),
    "empty": ("error", "the file is empty (0 bytes)", "copy it again from its source"),
    "damaged": ("error", "the image is cut short or damaged ({})", "copy it again from its source"),
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
    "palette": ("warning", "it has a palette of at most 256 colours", "export it in full colour"),
    "16-bit": (
        "warning",
        "it has 16 bits a channel: the upper 8 are kept",
        "export 8 bits a channel",
    ),
    "turned": (
        "warning",
        "it is turned upright by its EXIF tag",
        "nothing, unless its HE partner has no such tag",
    ),
    "pages": ("warning", "it has several pages: the first is used", "export one page a file"),
}


class DataError(ValueError):
    """One sentence about data that cannot be used, with the remedy."""


def read_pixels(source):
    """PIL image, RGB, of a path or file: upright by EXIF, transparency laid on white, the upper 8 of 16 bits, no palette."""
    with Image.open(source, formats=FORMATS) as image:
        _, fault, detail, _ = _header(image)
        if fault:
            raise DataError(f"{source}: {FAULTS[fault][1].format(detail)}; {FAULTS[fault][2]}.")
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")


def probe_files(paths, *, cache=None, deep=False, progress=False):
    """DataFrame (digest, side_px (w,h), fault, detail, notes), a row per path, decoded if deep; cache: folder of past results."""
    paths, known, fresh = list(paths), _remembered(cache), {}
    stamps = {path: _stamp(path) for path in dict.fromkeys(paths)}
    new = [
        path
        for path, stamp in stamps.items()
        if isinstance(stamp, list)
        and (path not in known or known[path][0] != stamp or (deep and not known[path][1]))
    ]
    bar = tqdm(new, desc="checking files", unit="file", disable=not progress or len(new) < 100)
    try:
        with contextlib.closing(map_ahead(lambda path: _facts(path, deep), bar)) as results:
            for path, facts in zip(new, results, strict=True):
                fresh[path] = [stamps[path], deep, *facts]
    finally:  # what was read before Ctrl-C need not be read again
        _remember(cache, fresh)
    known |= fresh
    rows = [
        known[path][2:] if isinstance(stamps[path], list) else ["", [0, 0], stamps[path], "", []]
        for path in paths
    ]
    return pd.DataFrame(rows, columns=["digest", "side_px", "fault", "detail", "notes"])


def map_ahead(work, items, *, workers=None):
    """Generator of work(item) in order, on threads, with at most 4 results a thread waiting, so memory stays flat."""
    # Pillow decodes and resizes outside the interpreter lock: 2 threads and 2 processes both decode
    # 23 patches a second here,
    # and threads leave no orphans after kill -9 and load no second torch.
    workers = workers or usable_cores()
    waiting, pool = deque(), ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _stamp(path):
    """[bytes, mtime, ctime] of a file, or what is wrong with it; ctime moves even where a copy keeps size and mtime."""
    try:
        facts = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError:
        return "locked"
    if not stat.S_ISREG(facts.st_mode):
        return "special"
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns] if facts.st_size else "empty"


def _facts(path, deep):
    """[digest, side_px (w,h), fault, detail, notes] of one file."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            return ["", [0, 0], "huge", "over 256 MB", []]
        data = Path(path).read_bytes()
    except OSError as error:
        return ["", [0, 0], "locked", error.strerror, []]
    digest = hashlib.sha256(data).hexdigest()  # 1.7 GB/s a core here, blake2b 0.7
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            facts = _header(image)
            if not facts[1]:
                _verify(image, data, deep)
        return [digest, *facts]
    except UnidentifiedImageError:
        return [digest, [0, 0], "foreign", "", []]
    except Image.DecompressionBombError:
        return [digest, [0, 0], "huge", "over 178 million pixels", []]
    # a stranger's bytes raise anything in a decoder; to the reader it all means the same
    except Exception as error:
        return [digest, [0, 0], "damaged", str(error)[:80], []]


def _header(image):
    """[side_px (w,h), fault, detail, notes] of an image that is open but not decoded."""
    (w, h), mode = image.size, image.mode
    if w * h > MAX_PX or min(w, h) < MIN_SIDE_PX:
        return [[w, h], "huge" if w * h > MAX_PX else "small", f"{w} x {h} px", []]
    if mode not in ("RGB", "RGBA", "P", "PA", "RGBX", "RGBa"):
        return [[w, h], "print" if mode in ("CMYK", "LAB", "HSV", "YCbCr") else "grey", mode, []]
    tagged = (
        image.format != "PNG" or "exif" in image.info
    )  # getexif would decode a whole PNG to look for a late tag
    notes = {
        "alpha": image.has_transparency_data,
        "palette": mode in ("P", "PA"),
        "16-bit": ";16" in str(image.tile),
        "turned": tagged and image.getexif().get(0x0112, 1) > 1,
        "pages": getattr(image, "n_frames", 1) > 1,
    }
    return [[w, h], "", "", [note for note, true in notes.items() if true]]


def _verify(image, data, deep):
    """None, or an exception: PNG by its checksums, JPEG by its end mark; what has neither, and all when deep, by decoding."""
    if image.format == "PNG":
        image.verify()  # 2 ms where decoding takes 37
    if deep or not (
        image.format == "PNG" or (image.format in ("JPEG", "MPO") and b"\xff\xd9" in data[-64:])
    ):
        with Image.open(io.BytesIO(data), formats=FORMATS) as again:
            again.load()


def _remembered(cache):
    """dict path -> [stamp, deep, facts...] from earlier calls."""
    return read_json(Path(cache, "files.json")) if cache else {}


def _remember(cache, fresh):
    """None; adds results to cache/files.json. It only saves time, so a full or locked disk is a warning."""
    if not cache or not fresh:
        return
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(cache, "files.lock")):
            write_text(
                Path(cache, "files.json"), json.dumps(_remembered(cache) | fresh)
            )  # in one line: 100,000 files are many
    except OSError as error:
        warnings.warn(
            f"{cache}: file checks are not kept ({error.strerror}), so the next call repeats them.",
            stacklevel=3,
        )
