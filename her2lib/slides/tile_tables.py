"""The tables of `her2 tile`: merged by key with what people typed into them, never emptied.

manifest.csv has a row per patch, slides.csv a row per slide, skipped.csv a row per field that was
left out. What was cut is known anew at every call; all else belongs to the people.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from her2lib.files import DataError, keep_old, write_table
from her2lib.intake.columns import ENLARGED
from her2lib.intake.layout_sentences import count_text
from her2lib.intake.text_tables import TextTable, read_text_table, write_text_table
from her2lib.slides.slide_files import first_few, match_names

# Why a field is left out, and the columns of slides.csv, manifest.csv and skipped.csv.
REASONS = ("blank", "pen", "out of focus", "unreadable", "outside regions")
FACTS = [
    "slide",
    "file",
    "width",
    "height",
    "slide_mpp",
    "mpp",
    "step",
    "down",
    "left",
    "top",
    "patches",
    *REASONS,
    "h_and_e",
]
MANIFEST = ["path", "score", "slide", "patient", "x", "y", "mpp", "tissue", "dab", "sharpness"]
SKIPPED = ["slide", "x", "y", "reason", "tissue", "sharpness"]
# What cutting alone knows. All other columns of the manifest are people's once they hold a text.
MEASURED = ["x", "y", "tissue", "dab", "sharpness", ENLARGED]
# Columns of others' words that are taken for ours.
USED = ("path", "slide", "score", "patient", "mpp")
DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class EarlierTables:
    """The tables of earlier calls as they are by now; None for one that is not there."""

    folder: Path
    manifest: TextTable | None = None
    slides: TextTable | None = None
    skipped: TextTable | None = None

    def slide_names(self) -> dict[Path, str]:
        """dict file -> name, of the slides that earlier calls cut."""
        if self.slides is None:
            return {}
        cells = self.slides.cells
        files = cells.get("path", cells.get("file", cells["slide"]))
        return {Path(file): name for file, name in zip(files, cells["slide"], strict=True)}


# --- before anything is cut -----------------------------------------------------------------------


def read_earlier(folder: Path) -> EarlierTables:
    """EarlierTables of a folder, in whatever dialect somebody saved them.

    Raises DataError where one cannot be read or names a patch twice, so that nothing is cut first.
    """
    tables = {}
    for name, needed in (("manifest", "path"), ("slides", "slide"), ("skipped", "slide")):
        file = folder / f"{name}.csv"
        if file.exists():
            tables[name] = read_text_table(file, needed=(needed,), optional=USED)
    earlier = EarlierTables(folder, **tables)
    if earlier.manifest is not None:
        first_rows: dict[str, int] = {}
        for row, key in enumerate(_patch_keys(earlier.manifest.cells["path"], folder)):
            line = first_rows.setdefault(key, earlier.manifest.line[row])
            if line != earlier.manifest.line[row]:
                raise DataError(
                    f"Rows {line} and {earlier.manifest.line[row]} of {earlier.manifest.path} name "
                    f"the same patch {key}: delete one. Nothing was changed."
                )
    return earlier


def read_patients(csv: Path | str | None) -> dict[str, str]:
    """dict slide, as it is written -> patient, of a table with these two columns; empty for None.

    Raises DataError where a slide has two patients.

    Example: read_patients("patients.csv")
    """
    if not csv:
        return {}
    table = read_text_table(csv, needed=(("slide", "path", "name"), "patient"))
    column = next(name for name in ("slide", "path", "name") if name in table.cells)
    patients: dict[str, str] = {}
    for slide, patient in zip(table.cells[column], table.cells["patient"], strict=True):
        if not slide or not patient:
            continue
        if patients.setdefault(slide, patient) != patient:
            raise DataError(
                f"{csv} must have the columns slide and patient, and one row for each slide: "
                f"{slide} has the patients {patients[slide]} and {patient}."
            )
    return patients


def match_patients(
    patients: Mapping[str, str], names: Mapping[Path, str]
) -> tuple[dict[str, str], list[str], list[str]]:
    """({slide: patient}, notes, problems) of a table of patients; all that matches none is named.

    patients: as read_patients gives them.  names: {slide: its name}.
    Raises DataError where no row names any slide, or two rows give one slide two patients.
    """
    if not patients:
        return {}, [], []
    matches = match_names(patients, names)
    if not matches.slide_of and not matches.unclear:
        raise DataError(
            f"No slide in the table of patients ({count_text(len(patients), 'row')}) is there: it "
            f"names {first_few(list(patients))}, there are {first_few(sorted(names.values()))}. "
            "Write the file names of the slides."
        )
    patient_of: dict[str, str] = {}
    for text, slide in matches.slide_of.items():
        if patient_of.setdefault(slide, patients[text]) != patients[text]:
            raise DataError(
                f"Two rows of the table of patients mean slide {slide}, with the patients "
                f"{patient_of[slide]} and {patients[text]}: delete one."
            )
    n_slides = count_text(len(set(names.values())), "slide")
    notes = [f"The patient is known of {len(patient_of)} of {n_slides}."]
    without = sorted(set(names.values()) - set(patient_of))
    if without:
        notes[0] += f" Without one: {len(without)} ({first_few(without)})."
    if matches.unmatched:
        n_rows = count_text(len(patients), "row")
        notes.append(
            f"No slide here is named by {len(matches.unmatched)} of {n_rows} of the table of "
            f"patients: {first_few(matches.unmatched)}."
        )
    problems = []
    for text, slides in matches.unclear.items():
        problems.append(
            f"{text!r} in the table of patients could mean {' or '.join(slides)}: write the whole "
            "file name, with its folder where two have one name."
        )
    return patient_of, notes, problems


def check_patients(earlier: EarlierTables, patient_of: Mapping[str, str]) -> None:
    """Raises DataError where the manifest gives a slide another patient than patient_of."""
    if earlier.manifest is None or "patient" not in earlier.manifest.cells:
        return
    cells = earlier.manifest.cells
    keys = _patch_keys(cells["path"], earlier.folder)
    for row, (key, typed) in enumerate(zip(keys, cells["patient"], strict=True)):
        slide = key.split("/")[0]
        if typed and patient_of.get(slide, typed) != typed:
            raise DataError(
                f"Slide {slide} has patient {typed} in {earlier.manifest.path} (row "
                f"{earlier.manifest.line[row]}) and {patient_of[slide]} in the table of patients: "
                "correct one. Nothing was changed."
            )


# --- after all is cut -----------------------------------------------------------------------------


def write_tables(
    earlier: EarlierTables,
    tiled: Sequence[tuple[dict, pd.DataFrame]],
    patient_of: Mapping[str, str],
) -> tuple[pd.DataFrame, list[str]]:
    """(manifest of this call's slides, sentences); the three tables are written if they differ.

    tiled: (FACTS and ENLARGED, a row per field as tissue_finder.plan_fields) of every slide.
    Rows of slides that earlier calls cut stay. A manifest that changes is kept beside.
    Raises DataError where rows of the manifest no longer match patches; then nothing is written.
    """
    facts = pd.DataFrame([facts for facts, _ in tiled], columns=[*FACTS, ENLARGED])
    fields = _field_rows(tiled)
    cut = fields[fields["reason"] == ""]
    columns = list(MANIFEST)
    if cut[ENLARGED].notna().any():
        columns.append(ENLARGED)
    patches = _text_table(cut, columns)
    patches["patient"] = [patient_of.get(slide, "") for slide in patches["slide"]]
    manifest, sentences = _merge_manifest(earlier, patches, set(facts["slide"]), patient_of)
    sentences += _write_manifest(earlier, manifest)
    replaced = set(facts["slide"])
    _write_other(earlier, "slides", earlier.slides, _text_table(facts, FACTS), replaced, ["slide"])
    skipped = _text_table(fields[fields["reason"] != ""], SKIPPED)
    key = ["slide", "x", "y"]
    _write_other(earlier, "skipped", earlier.skipped, skipped, replaced, key)
    keys = set(patches["path"])
    present = pd.Series(_patch_keys(manifest["path"], earlier.folder), dtype=object).isin(keys)
    return _with_numbers(manifest[present.to_numpy(bool)]), sentences


def patch_file(slide: str, x: int, y: int) -> str:
    """str, the file name of the patch whose corner is pixel (x, y) of level 0."""
    return f"{slide}_x{x:06d}_y{y:06d}.png"


# --- merging --------------------------------------------------------------------------------------


def _merge_manifest(earlier, patches, slides, patient_of):
    """(cells of the manifest to write, sentences) from what was there and what was cut."""
    if earlier.manifest is None:
        return patches, []
    before = earlier.manifest.cells
    keys = _patch_keys(before["path"], earlier.folder)
    _refuse_lost_rows(earlier, keys, set(patches["path"]), slides)

    merged = before.copy()
    for column in patches:
        if column not in merged:
            merged[column] = ""
    row_of = {key: row for row, key in enumerate(keys)}
    known = patches["path"].isin(row_of)
    _update_rows(merged, patches[known], row_of)
    patients = pd.Series([patient_of.get(key.split("/")[0], "") for key in keys], dtype=object)
    merged["patient"] = merged["patient"].where(merged["patient"] != "", patients)

    deleted = _deleted_by_people(earlier, patches[~known], keys)
    added = patches[~known & ~patches["path"].isin(deleted)]
    sentences = []
    if deleted:
        count = count_text(len(deleted), "patch", "patches")
        sentences.append(
            f"Rows that were deleted from the manifest stay out of it, of {count}: "
            f"{first_few(sorted(deleted))}."
        )
    if _has_decimal_commas(before):
        added = _with_decimal_commas(added)
    return pd.concat([merged, added], ignore_index=True).fillna(""), sentences


def _refuse_lost_rows(earlier, keys, cut, slides):
    """Raises DataError where a row names a patch of a slide that was cut, and there is no such."""
    cut_earlier = set(earlier.slide_names().values()) - slides
    lost = []
    for row, key in enumerate(keys):
        slide = key.split("/")[0]
        if key in cut or slide in cut_earlier:
            continue
        # A photograph that somebody listed beside the tiles is theirs and stays.
        if slide in slides or not (earlier.folder / key).is_file():
            lost.append(row)
    if not lost:
        return
    line = earlier.manifest.line[lost[0]]
    raise DataError(
        f"No patch that was cut matches {count_text(len(lost), 'row')} of {earlier.manifest.path} "
        f"(first: row {line}, {keys[lost[0]]}): correct what is written there, or give another "
        "--out. The table was left as it is."
    )


def _update_rows(merged, patches, row_of):
    """Writes what was measured into the rows of merged, and the rest where nobody wrote."""
    rows = [row_of[path] for path in patches["path"]]
    commas = _has_decimal_commas(merged)
    for column in patches:
        if column == "path":
            continue
        before = merged.loc[rows, column].tolist()
        after = patches[column].tolist()
        pairs = list(zip(before, after, strict=True))
        if column in MEASURED:
            cells = [_measured_cell(old, new, commas) for old, new in pairs]
        else:
            cells = [old or new for old, new in pairs]
        merged.loc[rows, column] = cells


def _measured_cell(old, new, commas):
    """str, the cell of a measure: as it is written where it is the same number, else anew."""
    if old == new or (_number(old) is not None and _number(old) == _number(new)):
        return old
    if commas:
        return new.replace(".", ",")
    return new


def _deleted_by_people(earlier, patches, keys):
    """set of paths that an earlier call wrote into the manifest, and somebody deleted there.

    A slide of which no row is left comes back whole. Fields that were left out before, as being
    outside the regions of then, were never in it.
    """
    there = {key.split("/")[0] for key in keys}
    skipped = set()
    if earlier.skipped is not None and {"slide", "x", "y"} <= set(earlier.skipped.cells):
        cells = earlier.skipped.cells
        skipped = set(zip(cells["slide"], cells["x"], cells["y"], strict=True))
    deleted = set()
    for row in patches.itertuples():
        if row.slide in there and (row.slide, row.x, row.y) not in skipped:
            deleted.add(row.path)
    return deleted


def _merge_others(before, rows, replaced, key):
    """DataFrame, rows of slides not replaced as they were, and rows with people's columns."""
    more = [column for column in before if column not in rows]
    kept_rows = before[~before["slide"].isin(replaced)]
    if more and set(key) <= set(before):
        typed = before.drop_duplicates(key)[[*key, *more]]
        rows = rows.merge(typed, on=key, how="left")
    return pd.concat([kept_rows, rows], ignore_index=True).fillna("")


# --- writing --------------------------------------------------------------------------------------


def _write_manifest(earlier, manifest):
    """list of str; manifest.csv is written where it changes, in its dialect, the old one kept."""
    file = earlier.folder / "manifest.csv"
    if earlier.manifest is None or earlier.manifest.cells.empty:
        write_table(file, manifest)
        return []
    before = earlier.manifest.cells
    if manifest.equals(before):
        return []
    old = keep_old(file)
    write_text_table(earlier.manifest, manifest)
    n_new = count_text(len(manifest) - len(before), "row")
    return [
        f"Added to the {count_text(len(before), 'row')} of {file} ({earlier.manifest.dialect}): "
        f"{n_new}. What was typed there stays. The old table is {old.name}."
    ]


def _write_other(earlier, name, table, rows, replaced, key):
    """None; slides.csv or skipped.csv is written where it changes."""
    file = earlier.folder / f"{name}.csv"
    if table is None:
        write_table(file, rows)
        return
    before = table.cells.rename(columns=_as_cut(table.cells, rows))
    merged = _merge_others(before, rows, replaced, key)
    if not merged.reindex(columns=before.columns).equals(before) or set(merged) != set(before):
        write_table(file, merged)


def _as_cut(cells, rows):
    """dict, the names that headings of these tables had before they were taken for others'."""
    if "file" in rows and "path" in cells:
        return {"path": "file"}
    return {}


def _text_table(frame, columns):
    """DataFrame of str, the columns of a frame as a CSV has them; "" for NaN."""
    text = {column: [_as_cell(value) for value in frame[column]] for column in columns}
    return pd.DataFrame(text, columns=columns, dtype=object)


def _as_cell(value):
    if pd.isna(value):
        return ""
    return str(value)


def _with_numbers(manifest):
    """DataFrame, a manifest of text with numbers where they were measured."""
    table = manifest.reset_index(drop=True).astype(object)
    for column in [*MEASURED, "mpp"]:
        if column in table:
            numbers = [_number(text) for text in table[column]]
            table[column] = pd.to_numeric(pd.Series(numbers, dtype=object))
    return table


def _number(text):
    """float or int of a cell, also with a decimal comma; None for what is no number."""
    text = text.replace(",", ".")
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return None


def _has_decimal_commas(cells):
    """bool, whether numbers of a table are written as 0,46."""
    columns = [column for column in [*MEASURED, "mpp"] if column in cells]
    return any(cells[column].str.fullmatch(DECIMAL_COMMA).any() for column in columns)


def _with_decimal_commas(cells):
    """DataFrame, the numbers of measured columns written as 0,46."""
    columns = [column for column in [*MEASURED, "mpp"] if column in cells]
    changed = {column: cells[column].str.replace(".", ",", regex=False) for column in columns}
    return cells.assign(**changed)


def _patch_keys(paths: Iterable[str], folder: Path) -> list[str]:
    """list of str, paths relative to the folder with forward slashes, however they are written."""
    root = os.path.abspath(folder)
    keys = []
    for text in paths:
        path = unicodedata.normalize("NFC", text).replace("\\", "/")
        path = os.path.relpath(os.path.join(root, path), root)
        keys.append(path.replace(os.sep, "/"))
    return keys


def _field_rows(tiled):
    """DataFrame, a row per field of all slides: MANIFEST's columns, the reason and ENLARGED."""
    parts = []
    for facts, fields in tiled:
        mpp = round(facts["mpp"], 5)
        enlarged = pd.NA
        if facts[ENLARGED] > 1:
            enlarged = facts[ENLARGED]
        parts.append(fields.assign(slide=facts["slide"], mpp=mpp, enlarged=enlarged))
    if parts:
        rows = pd.concat(parts, ignore_index=True)
    else:
        rows = pd.DataFrame(columns=[*MANIFEST, "reason", ENLARGED])
    paths = [f"{row.slide}/{patch_file(row.slide, row.x, row.y)}" for row in rows.itertuples()]
    return rows.assign(path=paths, score="", patient="")
