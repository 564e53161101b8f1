"""Every patch decoded and resized once, on all cores, into one memory-mapped uint8 file; training never meets an image file."""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from PIL import Image
from tqdm.auto import tqdm

from her2lib.data.images import DataError, map_ahead, probe_files, read_pixels
from her2lib.data.patches import Patches
from her2lib.files import read_json, write_text

VERSION = 1  # goes up when the same files and settings would give other pixels
RESAMPLE = Image.Resampling.BICUBIC  # Pillow widens the kernel as it shrinks: antialiased
HEADER = 128  # bytes before the pixels: what follows is a .npy file that NumPy reads too


def open_store(table, *, side_px, folder, progress=True, workers=None, skip_bad=False):
    """Patches of the table's rows, images (N,3,side_px,side_px) mapped from a file in folder, built there on first use."""
    file = _file(table, side_px, folder, progress)
    facts = _facts(file) or _build(
        table, file, side_px, progress=progress, workers=workers, skip_bad=skip_bad
    )
    if facts["lost"] and not skip_bad:
        raise _undecodable(facts["lost"])
    if small := sum(px < side_px for px in facts["original_px"]):
        warnings.warn(
            f"{small} patches have fewer than {side_px} px a side and are enlarged: no detail is gained.",
            stacklevel=2,
        )
    table = table.iloc[facts["rows"]]
    mpp = table.mpp.to_numpy(float) * np.array(facts["original_px"]) / side_px
    words = {column: table[column].to_numpy(object) for column in ("slide", "patient", "name")}
    images = _mapped(file).view(len(table), 3, side_px, side_px)
    return Patches(images=images, score=table.score.to_numpy(np.int64), mpp=mpp, **words)


def lost_patches(table, *, side_px, folder):
    """DataFrame (name, problem, remedy) of the patches that skip_bad left out of a built store, as they cannot be decoded."""
    rows = _facts(_file(table, side_px, folder, False)).get("lost", [])
    return pd.DataFrame(
        [(*row, "copy it again from its source") for row in rows],
        columns=["name", "problem", "remedy"],
    )


def decode_patch(path, side_px):
    """((3,side_px,side_px) uint8, side in px before resizing) of one image file: its middle square, antialiased."""
    image = read_pixels(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize((side_px, side_px), RESAMPLE, box=(left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), side


def _file(table, side_px, folder, progress):
    """Path of the store, named after the bytes of all its files, their order, and the settings."""
    if not len(table):
        raise DataError("No patch is left to store: `her2 check` says what became of them.")
    facts = probe_files(table.path, cache=folder, progress=progress)
    if len(gone := np.flatnonzero(facts.digest == "")):
        path, fault = table.path.iloc[gone[0]], facts.fault[gone[0]]
        raise DataError(f"{path} has changed since the data were read ({fault}): read them again.")
    key = json.dumps([VERSION, side_px, int(RESAMPLE), list(facts.digest)])
    return Path(folder, hashlib.sha256(key.encode()).hexdigest()[:24]).with_suffix(".npy")


def _facts(file):
    """dict (rows, original_px, lost, bytes) of a finished store, else {}: a disk may lose the end of a file when power fails."""
    facts = read_json(file.with_suffix(".json"))
    return facts if file.exists() and file.stat().st_size == facts.get("bytes") else {}


def _mapped(file):
    """(bytes,) uint8 tensor over the file's pixels; writing to it changes this process' memory only."""
    # A plain private mapping counts against memory: 100,000 patches of 1024 px (315 GB) were
    # refused on a 24 GB machine.
    flags = {"access": mmap.ACCESS_COPY}
    if sys.platform == "linux":
        flags = {
            "flags": mmap.MAP_PRIVATE | 0x4000,
            "prot": mmap.PROT_READ | mmap.PROT_WRITE,
        }  # 0x4000: MAP_NORESERVE
    with file.open("rb") as source:
        return torch.frombuffer(
            mmap.mmap(source.fileno(), 0, **flags), dtype=torch.uint8, offset=HEADER
        )


def _build(table, file, side_px, *, progress, workers, skip_bad):
    """dict, the facts of the store, written under the lock of its name: a second process waits and then finds it finished."""
    size, part = len(table) * 3 * side_px**2, file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file):
            if held := _facts(file):
                return held
            _sweep(file)
            if (free := shutil.disk_usage(file.parent).free) < size:
                raise DataError(
                    f"{file.parent} has {free / 1e9:.2f} GB free and the store takes {size / 1e9:.2f} GB: free some, "
                    f"or give another folder."
                )
            try:
                kept = _decode(
                    table, part, side_px, progress=progress, workers=workers, skip_bad=skip_bad
                )
                file.unlink(missing_ok=True)
                write_text(file.with_suffix(".json"), json.dumps(kept))
                os.replace(part, file)  # last: a store that is there is whole
                return kept
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"The store cannot be written to {file.parent} ({error.strerror or error}), nothing half-built is kept: "
            f"free {size / 1e9:.2f} GB there, or give a folder that you may write to."
        ) from error


def _decode(table, part, side_px, *, progress, workers, skip_bad):
    """dict (rows, original_px, lost, bytes) of the patches decoded into the file part, in the table's order."""

    def work(path):
        try:
            return decode_patch(path, side_px)
        except Exception as error:  # a stranger's bytes raise anything in a decoder
            if isinstance(error, MemoryError):
                raise
            if getattr(error, "errno", None):  # the disk's fault, not the image's
                raise DataError(
                    f"{path} cannot be read ({error.strerror}): mend that, then start again."
                ) from error
            return None, f"it cannot be decoded ({str(error)[:80]})"

    kept = {"rows": [], "original_px": [], "lost": []}
    bar = tqdm(table.path, desc=f"decoding to {side_px} px", unit="patch", disable=not progress)
    with (
        part.open("wb") as out,
        contextlib.closing(map_ahead(work, bar, workers=workers)) as results,
    ):
        _header(out, len(table), side_px)
        for row, (image, side) in enumerate(
            results
        ):  # written, not mapped: a full disk is an error here, there a killed process
            if image is None:
                kept["lost"].append([table.name.iloc[row], side])
            else:
                out.write(image.data)
                kept["rows"].append(row)
                kept["original_px"].append(side)
        if kept["lost"] and not (skip_bad and kept["rows"]):
            raise _undecodable(kept["lost"])
        _header(out, len(kept["rows"]), side_px)
    return kept | {"bytes": part.stat().st_size}


def _header(out, n, side_px):
    """None; writes the .npy header of n images to the start of a file; its length does not hang on n."""
    out.seek(0)
    np.lib.format.write_array_header_1_0(
        out, {"descr": "|u1", "fortran_order": False, "shape": (n, 3, side_px, side_px)}
    )
    if out.tell() != HEADER:
        raise RuntimeError(
            f"NumPy wrote a header of {out.tell()} bytes where {HEADER} were expected: change store.HEADER."
        )


def _undecodable(rows):
    """DataError about images that pass every check of header and checksum and still do not decode."""
    return DataError(
        f"{rows[0][0]}: {rows[0][1]}; {len(rows)} such in all. Copy them again from their source, or go on without "
        f"them by --skip-bad."
    )


def _sweep(file):
    """None; removes what killed builders left: a half-built store whose lock is free has no builder."""
    for part in file.parent.glob("*.part"):
        lock = part.with_name(part.name.lstrip(".").split(".")[0] + ".lock")
        with (
            contextlib.suppress(Timeout),
            FileLock(lock, blocking=False) if lock.stem != file.stem else contextlib.nullcontext(),
        ):
            part.unlink(missing_ok=True)


def _locked(file):
    """FileLock of this store, held; the system lets go of it when its process dies, by kill -9 too."""
    lock = FileLock(file.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"Another process is building {file.name}: waiting for it.", file=sys.stderr)
        lock.acquire()
    return lock
