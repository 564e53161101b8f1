"""Every patch decoded and resized once, on all cores, into one memory-mapped uint8 file.

Training never meets an image file.
"""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from PIL import Image
from tqdm.auto import tqdm

from her2lib.data.images import map_ahead, probe_files, read_pixels
from her2lib.data.patches import Patches
from her2lib.files import DataError, read_json, write_text

VERSION = 1  # goes up when the same files and settings would give other pixels
RESAMPLE = Image.Resampling.BICUBIC  # Pillow widens the kernel as it shrinks: antialiased
# Files with these notes had other pixels before colours.py read them.
READ_ANEW = {"16-bit", "profile"}
HEADER = 128  # bytes before the pixels: what follows is a .npy file that NumPy reads too
MAP_NORESERVE = 0x4000  # Linux; Python's mmap has no name for it before 3.13


# --- opening ----------------------------------------------------------------------------------


def open_store(
    table: pd.DataFrame,
    *,
    side_px: int,
    folder: Path | str,
    progress: bool = True,
    workers: int | None = None,
    skip_bad: bool = False,
) -> Patches:
    """Patches of the table's rows, images (N,3,side_px,side_px) uint8 mapped from a file.

    table: as read_table returns it; its column "set" becomes Patches.subset. A column field_px
    says of which middle square in px each file is read (common_field.with_common_field); 0: all.
    folder: where the file is kept. It is built on first use, and again when an image has changed.
    workers: threads that decode, as many as there are cores unless given.
    skip_bad: leave out images that do not decode; lost_patches names them.
    Raises DataError where an image does not decode or the store cannot be written.

    Example: patches = open_store(table, side_px=224, folder=".cache/stores")
    """
    file = _store_file(table, side_px, folder, progress)
    facts = _read_facts(file)
    if not facts:
        facts = _build_store(
            table, file, side_px, progress=progress, workers=workers, skip_bad=skip_bad
        )
    if facts["lost"] and not skip_bad:
        raise _undecodable_error(facts["lost"])

    original_px = np.array(facts["original_px"])
    _warn_of_enlarged(original_px, side_px)
    table = table.iloc[facts["rows"]]
    subset = np.full(len(table), "", object)
    if "set" in table:
        subset = table["set"].to_numpy(object)
    return Patches(
        images=_map_pixels(file).view(len(table), 3, side_px, side_px),
        score=table["score"].to_numpy(np.int64),
        slide=table["slide"].to_numpy(object),
        patient=table["patient"].to_numpy(object),
        name=table["name"].to_numpy(object),
        mpp=table["mpp"].to_numpy(float) * original_px / side_px,
        subset=subset,
    )


def lost_patches(table: pd.DataFrame, *, side_px: int, folder: Path | str) -> pd.DataFrame:
    """DataFrame (name, problem, remedy): what skip_bad left out of a store, undecodable."""
    facts = _read_facts(_store_file(table, side_px, folder, progress=False))
    rows = []
    for name, problem in facts.get("lost", []):
        rows.append((name, problem, "copy it again from its source"))
    return pd.DataFrame(rows, columns=["name", "problem", "remedy"])


def decode_patch(
    path: Path | str | BinaryIO, side_px: int, *, field_px: int = 0
) -> tuple[np.ndarray, int]:
    """((3,side_px,side_px) uint8, side in px before): a file's middle square, antialiased.

    field_px: side of that square in px of the file, 0 for the largest. A file that is smaller is
    mirrored at its edges, so that its cells keep their size.
    """
    image = read_pixels(path)
    side = field_px or min(image.size)
    if side > min(image.size):
        image = _mirrored(image, side)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    square = (left, top, left + side, top + side)
    image = image.resize((side_px, side_px), RESAMPLE, box=square)
    # (H,W,3) -> (3,H,W)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), side


def _mirrored(image, side):
    """PIL image whose sides are at least side px, continued by reflection where it was smaller."""
    missing = [max(0, side - length) for length in (image.height, image.width)]
    margins = [(total // 2, total - total // 2) for total in missing]
    pixels = np.pad(np.asarray(image), [*margins, (0, 0)], mode="reflect")
    return Image.fromarray(pixels)


def _warn_of_enlarged(original_px, side_px):
    enlarged = int((original_px < side_px).sum())
    if enlarged:
        # The level of whoever called open_store.
        warnings.warn(
            f"{enlarged} patches have fewer than {side_px} px a side and are enlarged: "
            f"no detail is gained.",
            stacklevel=3,
        )


def _store_file(table, side_px, folder, progress):
    """Path of the store, named after the bytes of all its files, their order, and the settings."""
    if not len(table):
        raise DataError("No patch is left to store: `her2 check` says what became of them.")
    facts = probe_files(table["path"], cache=folder, progress=progress)
    unreadable = np.flatnonzero(facts.digest == "")
    if len(unreadable):
        path = table["path"].iloc[unreadable[0]]
        fault = facts.fault[unreadable[0]]
        raise DataError(f"{path} has changed since the data were read ({fault}): read them again.")
    settings = [VERSION, side_px, int(RESAMPLE), list(facts.digest)]
    fields_px = _fields_px(table)
    # Stores of whole files keep the names that they have had, as do those of plain 8-bit colours.
    if any(fields_px):
        settings.append(fields_px)
    if any(set(notes) & READ_ANEW for notes in facts.notes):
        settings.append("colours.py")
    key = json.dumps(settings)
    name = hashlib.sha256(key.encode()).hexdigest()[:24]
    return Path(folder, f"{name}.npy")


def _fields_px(table):
    """list of int, the side of the square that is read of each file; 0 for the largest."""
    if "field_px" not in table:
        return [0] * len(table)
    return [int(field_px) for field_px in table["field_px"]]


def _read_facts(file):
    """dict (rows, original_px, lost, bytes) of a finished store, else {}."""
    facts = read_json(file.with_suffix(".json"))
    # A disk may lose the end of a file when power fails.
    whole = file.exists() and file.stat().st_size == facts.get("bytes")
    if not whole:
        return {}
    return facts


def _map_pixels(file):
    """(bytes,) uint8 tensor over the file's pixels; writing to it changes this process only."""
    options = {"access": mmap.ACCESS_COPY}
    if sys.platform == "linux":
        # A plain private mapping counts against memory: 100,000 patches of 1024 px (315 GB) were
        # refused on a 24 GB machine.
        options = {
            "flags": mmap.MAP_PRIVATE | MAP_NORESERVE,
            "prot": mmap.PROT_READ | mmap.PROT_WRITE,
        }
    with file.open("rb") as source:
        pixels = mmap.mmap(source.fileno(), 0, **options)
    return torch.frombuffer(pixels, dtype=torch.uint8, offset=HEADER)


# --- building ---------------------------------------------------------------------------------


def _build_store(table, file, side_px, *, progress, workers, skip_bad):
    """dict, the facts of the store, built under the lock of its name.

    A second process waits, and then finds the store finished.
    """
    n_bytes = len(table) * 3 * side_px**2
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _hold_store_lock(file):
            facts = _read_facts(file)
            if facts:
                return facts
            _remove_dead_parts(file)
            _check_space(file.parent, n_bytes)
            try:
                facts = _decode_all(
                    table, part, side_px, progress=progress, workers=workers, skip_bad=skip_bad
                )
                file.unlink(missing_ok=True)
                write_text(file.with_suffix(".json"), json.dumps(facts))
                # Last: a store that is there is whole.
                os.replace(part, file)
                return facts
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"The store cannot be written to {file.parent} ({error.strerror or error}), "
            f"nothing half-built is kept: free {n_bytes / 1e9:.2f} GB there, "
            f"or give a folder that you may write to."
        ) from error


def _check_space(folder, n_bytes):
    """Raises DataError where the disk of folder has less than n_bytes free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise DataError(
            f"{folder} has {free / 1e9:.2f} GB free and the store takes {n_bytes / 1e9:.2f} GB: "
            f"free some, or give another folder."
        )


def _decode_all(table, part, side_px, *, progress, workers, skip_bad):
    """dict (rows, original_px, lost, bytes) of the patches decoded into the file part, in order."""

    def decode(job):
        path, field_px = job
        return _decode_or_say(path, side_px, field_px)

    rows = []
    original_px = []
    lost = []
    jobs = list(zip(table["path"], _fields_px(table), strict=True))
    bar = tqdm(jobs, desc=f"decoding to {side_px} px", unit="patch", disable=not progress)
    with (
        part.open("wb") as out,
        contextlib.closing(map_ahead(decode, bar, workers=workers)) as results,
    ):
        _write_npy_header(out, len(table), side_px)
        # Written, not mapped: a full disk is an error here, there a killed process.
        for row, (image, side, problem) in enumerate(results):
            if image is None:
                lost.append([table["name"].iloc[row], problem])
            else:
                out.write(image.data)
                rows.append(row)
                original_px.append(side)
        if lost and not (skip_bad and rows):
            raise _undecodable_error(lost)
        _write_npy_header(out, len(rows), side_px)
    n_bytes = part.stat().st_size
    return {"rows": rows, "original_px": original_px, "lost": lost, "bytes": n_bytes}


def _decode_or_say(path, side_px, field_px):
    """(image (3,side_px,side_px) uint8, side in px, "") of a file, or (None, 0, what is wrong)."""
    try:
        image, side = decode_patch(path, side_px, field_px=field_px)
    except MemoryError:
        raise
    # A stranger's bytes raise anything in a decoder.
    except Exception as error:
        # An error number is the disk's fault, not the image's.
        if getattr(error, "errno", None):
            raise DataError(
                f"{path} cannot be read ({error.strerror}): mend that, then start again."
            ) from error
        return None, 0, f"it cannot be decoded ({str(error)[:80]})"
    return image, side, ""


def _write_npy_header(out, n, side_px):
    """Writes the .npy header of n images to the start of a file; its length does not hang on n."""
    out.seek(0)
    shape = (n, 3, side_px, side_px)
    np.lib.format.write_array_header_1_0(
        out, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    if out.tell() != HEADER:
        raise RuntimeError(
            f"NumPy wrote a header of {out.tell()} bytes where {HEADER} were expected: "
            f"change store.HEADER."
        )


def _undecodable_error(lost):
    """DataError about images that pass every check of header and checksum and do not decode."""
    name, problem = lost[0]
    return DataError(
        f"{name}: {problem}; {len(lost)} such in all. "
        f"Copy them again from their source, or go on without them by --skip-bad."
    )


def _hold_store_lock(file):
    """FileLock of this store, held; the system frees it when its process dies, by kill -9 too."""
    lock = FileLock(file.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"Another process is building {file.name}: waiting for it.", file=sys.stderr)
        lock.acquire()
    return lock


def _remove_dead_parts(file):
    """Removes what killed builders left: a half-built store whose lock is free has no builder."""
    for part in file.parent.glob("*.part"):
        # part is <store>.part, or .<store>.json.<process>.part of a file being written.
        store_name = part.name.lstrip(".").split(".")[0]
        if store_name == file.stem:
            part.unlink(missing_ok=True)
            continue
        lock = FileLock(part.with_name(f"{store_name}.lock"))
        with contextlib.suppress(Timeout), lock.acquire(blocking=False):
            part.unlink(missing_ok=True)
