"""The scale of patches: estimated where none is stated, and set against what is stated.

A single picture tells its scale within about 30 %, a set of eight within 10 % (data/scale.py), so
all pictures of one size share one estimate.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from her2lib.data import field, scale
from her2lib.data.images import map_ahead, read_pixels
from her2lib.files import fingerprint, read_json, source_fingerprint, write_json
from her2lib.intake.layout_sentences import count_text

# So many pictures of a size are looked at: 0.08 s each at 1024 px, decoding included.
MOST_IMAGES = 48
# A stated scale that differs from the pictures by more than this factor is doubted aloud: single
# pictures of phantoms are wrong by more in 3 of 100, and files that were resized are by 2 to 4.6.
DOUBTFUL = 1.5
STATED = "stated"
ESTIMATED = "estimated"


def with_known_scale(
    table: pd.DataFrame,
    sides_px: Sequence[tuple[int, int]],
    *,
    cache: Path | str | None = None,
    progress: bool = False,
    flag: str = "--mpp",
) -> tuple[pd.DataFrame, list[str]]:
    """(table with mpp filled in and mpp_from; sentences): what was estimated, what is doubted.

    table: path and mpp, NaN where no file, table or flag states it.
    sides_px: (width, height) of each file.  cache: folder that keeps estimates for the next call.
    flag: of the command line, which states the scale.
    mpp_from is "stated", "estimated", or "" where the pictures do not tell.

    Example: table, notes = with_known_scale(table, sides_px, cache=".cache/stores")
    """
    table = table.reset_index(drop=True)
    mpp = table["mpp"].to_numpy(float).copy()
    mpp_from = np.where(np.isnan(mpp), "", STATED).astype(object)
    sizes = np.array([f"{width} x {height}" for width, height in sides_px], object)
    sentences = []
    for size in sorted(set(sizes[np.isnan(mpp)])):
        rows = np.flatnonzero((sizes == size) & (mpp_from == ""))
        estimate = _estimate(table["path"].iloc[rows], np.ones(len(rows)), size, cache, progress)
        sentences.append(_sentence(estimate, len(rows), size, flag))
        if not estimate.reason:
            mpp[rows] = estimate.mpp
            mpp_from[rows] = ESTIMATED
    for size in sorted(set(sizes[mpp_from == STATED])):
        rows = np.flatnonzero((sizes == size) & (mpp_from == STATED))
        ratio = _estimate(table["path"].iloc[rows], mpp[rows], size, cache, progress)
        sentences += _doubt_sentences(ratio, mpp[rows], size)
    return table.assign(mpp=mpp, mpp_from=mpp_from), sentences


# --- helpers ------------------------------------------------------------------------------------


def _estimate(paths, units_um, size, cache, progress):
    """scale.SetScale of pictures of one size, read from the cache where they are the same.

    units_um: (N,) what each picture's scale is divided by: 1 um, or the scale that is stated.
    """
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), MOST_IMAGES)).round().astype(int)
    files = [Path(paths.iloc[i]) for i in chosen]
    units_um = units_um[chosen]
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    if (units_um != 1).any():
        stamps.append(units_um.tolist())
    code = source_fingerprint("data.scale", "data.blob_filters")
    kept = None
    if cache:
        kept = Path(cache, f"scale-{fingerprint(stamps, code)}.json")
        record = read_json(kept)
        if record:
            return scale.SetScale(**record)

    bar = tqdm(files, desc=f"scale of {size} px", unit="patch", disable=not progress)
    rows = []
    for row, unit_um in zip(map_ahead(_estimate_file, bar), units_um, strict=True):
        if row is not None:
            rows.append(row.assign(mpp=row["mpp"] / unit_um))
    estimate = scale.pool_mpp(pd.concat(rows)) if rows else _untold(len(files))
    if kept:
        _keep(kept, estimate)
    return estimate


def _estimate_file(file):
    """DataFrame of one row, as of scale.estimate_mpp; None for a file that does not decode."""
    try:
        pixels = np.asarray(read_pixels(file))
    # A stranger's bytes raise anything in a decoder; the store names such a file.
    except Exception:
        return None
    return scale.estimate_mpp(pixels.transpose(2, 0, 1)[None])


def _untold(n_images):
    """scale.SetScale of pictures none of which decodes."""
    unknown = dict.fromkeys(("mpp", "low", "high", "spread"), float("nan"))
    return scale.SetScale(**unknown, n_images=n_images, n_answered=0, reason="none decodes")


def _keep(file, estimate):
    """Writes an estimate for the next call. It only saves time, so a full or locked disk warns."""
    try:
        write_json(file, vars(estimate))
    except OSError as error:
        warnings.warn(f"{file.parent}: the scale is not kept ({error.strerror}).", stacklevel=3)


def _sentence(estimate, count, size, flag):
    """str for `her2 check`, page one and the log: what is taken for the scale, and the flag."""
    patches = count_text(count, "patch", "patches")
    text = f"No scale is stated for {patches} of {size} px. {estimate.sentence(flag)}"
    if estimate.reason:
        text += f" A patch is taken for {field.FIELD_UM:.0f} um a side."
    return text


def _doubt_sentences(ratio, stated_mpp, size):
    """list of str: that pictures contradict the scale that is stated for them; [] where they agree.

    ratio: scale.SetScale of the pictures' scale over the stated one.
    """
    is_doubtful = not 1 / DOUBTFUL <= ratio.mpp <= DOUBTFUL and not ratio.low <= 1 <= ratio.high
    if ratio.reason or not is_doubtful:
        return []
    stated = float(np.median(stated_mpp))
    patches = count_text(len(stated_mpp), "patch", "patches")
    return [
        f"The stated scale of {patches} of {size} px, {stated:.2g} um a pixel, does not fit what "
        f"they show: by nuclei and membranes it is about {ratio.mpp * stated:.2g} "
        f"({ratio.low * stated:.2g} to {ratio.high * stated:.2g}; pictures that answer: "
        f"{ratio.n_answered} of {ratio.n_images}). The stated one is used; if the files were "
        "resized since, correct it, or leave it out and it is estimated."
    ]
