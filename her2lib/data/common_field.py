"""One length of tissue a side for all patches of a cohort: a cell has one size to a network.

A network sees squares of side_px pixels and no scale: 240 um and 960 um of tissue look alike to it
in everything but the size of cells.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.data.images import probe_files
from her2lib.data.known_scale import ESTIMATED
from her2lib.intake.layout_sentences import count_text

# A side within this fraction of the common one is left whole: resampling would only soften it.
SAME = 0.02
# An estimated scale is uncertain by about this fraction, so smaller differences mean nothing.
SAME_IF_ESTIMATED = 0.25
# Mirrored to more than twice its side, a patch would be mostly mirror.
MOST_MIRRORED = 2.0


def with_common_field(
    table: pd.DataFrame, sides_px: np.ndarray, *, field_um: float | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """(table with field_px, the middle square of each file that is read, 0 for all; sentences).

    table: as read_source returns it, with mpp and, where it was estimated, mpp_from "estimated".
    sides_px: (N,) the shorter side of each file in px.
    field_um: the side in micrometres that all shall have; None for the median of the table.
    Patches of unknown scale are read whole, and so are those less than half as long as field_um.

    Example: table, notes = with_common_field(table, sides_px)
    """
    sides_um = table["mpp"].to_numpy(float) * np.asarray(sides_px, float)
    known = np.isfinite(sides_um)
    if field_um is None and known.any():
        field_um = float(np.median(sides_um[known]))
    if field_um is None or not np.isfinite(field_um):
        return table.assign(field_px=0), []

    tolerance = np.full(len(table), SAME)
    if "mpp_from" in table:
        tolerance[table["mpp_from"] == ESTIMATED] = SAME_IF_ESTIMATED
    ratio = np.where(known, sides_um / field_um, 1.0)
    differs = np.abs(ratio - 1) > tolerance
    too_small = ratio * MOST_MIRRORED < 1
    resampled = differs & ~too_small
    wanted_px = np.round(field_um / table["mpp"].to_numpy(float).clip(1e-6))
    field_px = np.where(resampled, np.nan_to_num(wanted_px), 0).astype(int)
    sentences = _sentences(field_um, ratio, resampled=resampled, too_small=too_small)
    return table.assign(field_px=field_px), sentences


def bring_to_common_field(
    table: pd.DataFrame, *, cache: Path | str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """(table with field_px; sentences) of with_common_field for files on the disk.

    The field is the median of the patches that are not external: an external set is brought to
    that of the cohort.  cache: folder that keeps the checks of files.

    Example: table, notes = bring_to_common_field(source.table, cache=".cache/stores")
    """
    table = table.reset_index(drop=True)
    sizes = probe_files(table["path"], cache=cache)["side_px"]
    sides_px = np.array([min(size) for size in sizes], float)
    sides_um = table["mpp"].to_numpy(float) * sides_px
    of_cohort = (table["set"] != "external").to_numpy() & np.isfinite(sides_um)
    field_um = None
    if of_cohort.any():
        field_um = float(np.median(sides_um[of_cohort]))
    return with_common_field(table, sides_px, field_um=field_um)


# --- helpers ------------------------------------------------------------------------------------


def _sentences(field_um, ratio, *, resampled, too_small):
    """list of str for page one: how many patches were cut to the common field, or mirrored."""
    cropped = resampled & (ratio > 1)
    mirrored = resampled & (ratio < 1)
    parts = []
    if cropped.any():
        largest_um = field_um * ratio[cropped].max()
        parts.append(
            f"shown by their middle alone, {int(cropped.sum()):,} of up to {largest_um:.0f}"
        )
    if mirrored.any():
        smallest_um = field_um * ratio[mirrored].min()
        parts.append(
            f"mirrored at their edges, {int(mirrored.sum()):,} of {smallest_um:.0f} and more"
        )
    sentences = []
    if parts:
        sentences.append(
            f"All patches are brought to fields of {field_um:.0f} micrometres a side: "
            f"{'; '.join(parts)}."
        )
    if too_small.any():
        sentences.append(
            f"Less than half of {field_um:.0f} micrometres a side is shown by "
            f"{count_text(int(too_small.sum()), 'patch', 'patches')}, read whole: cells look too "
            "large there to a network."
        )
    return sentences
