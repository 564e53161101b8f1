"""What lies at a path of a stranger: a table, or a folder whose layout is found by its evidence.

The layout is named with an example, and what was left aside is counted; what could mean two things
is refused with both readings and the flag that chooses.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from her2lib.files import DataError
from her2lib.intake import columns, folder_roles, listing, manifests, public_sets
from her2lib.intake import layout_sentences as sentences_
from her2lib.intake.choices import FIND_OUT, Choices
from her2lib.intake.columns import SUFFIXES
from her2lib.intake.folder_rows import crossed_sets, name_layout, rows_of, two_scores
from her2lib.intake.layout_sentences import SLIDE_SUFFIXES
from her2lib.intake.listing import Listing
from her2lib.intake.text_tables import read_text_table

# A folder is read by one of these where it has one.
MANIFESTS = ("manifest.csv", "manifest.tsv", "manifest.txt", "manifest.xlsx")
# Readings, slides and patients of the patches that `her2 phantom` writes.
PHANTOM_TABLE = "phantom.csv"
PHANTOM_FILES = (PHANTOM_TABLE, "phantom.json")


@dataclass(frozen=True)
class Layout:
    """What lies at a path and as what it was read, as written: nothing is judged yet."""

    root: Path
    rows: pd.DataFrame  # columns.RAW_COLUMNS and rater_*, text
    problems: list  # (code in judging.PROBLEMS, file, details of its sentence)
    name: str  # one of choices.LAYOUTS
    looks_like: str = ""  # a public set by name
    example: dict = field(default_factory=dict)  # path, score, set, slide, patient of one row
    sentences: list[str] = field(default_factory=list)  # read as what; what was left aside
    n_there: int = 0  # files that lie there, or rows of a table
    n_partners: int = 0  # H&E images beside the rows
    n_refused: int = 0  # files that are no rows, as they could be read in two ways


def read_layout(path: Path, choices: Choices = FIND_OUT) -> Layout:
    """Layout of a folder, or of a table (.csv, .tsv, .txt, .xlsx) of patches.

    Raises DataError where there is nothing that could be a patch, or where what lies there could
    be read in two ways; the sentence names both, and the flag that chooses.

    Example: read_layout(Path("my_patches")).name is "folders"
    """
    if path.is_file() and path.suffix.lower() in manifests.SUFFIXES:
        return _table_layout(path, choices)
    if not path.is_dir():
        raise DataError(
            f"{path} is neither a folder nor a .csv, .tsv, .txt or .xlsx manifest: check the path."
        )
    table = _manifest_of(path, choices)
    if table:
        return _table_layout(table, choices)
    return _folder_layout(path, choices)


def paths_inside(
    paths: Iterable[str], root: Path, *, allow: Sequence[Path | str] = ()
) -> np.ndarray:
    """(N,) bool, whether each path, every link followed, ends in root or allow; an empty one does.

    allow: further folders that links and paths may lead into.
    """
    roots = listing.real_roots([root, *allow])
    # Many files lie in few folders: the links of a folder are followed once.
    folder_is_inside = {}
    inside = []
    for path in paths:
        folder, name = os.path.split(path)
        if not path:
            inside.append(True)
        elif os.path.islink(path):
            inside.append(listing.lies_in(path, roots))
        else:
            if folder not in folder_is_inside:
                folder_is_inside[folder] = listing.lies_in(folder, roots)
            inside.append(folder_is_inside[folder] and name != "..")
    return np.array(inside, bool)


def roots_to_allow(paths: Iterable[str]) -> list[str]:
    """list of str (N,), the folder that would have to be allowed for each path to be read.

    One folder for all where they share one that is no top of a file system.
    """
    folders = [os.path.dirname(os.path.realpath(path)) for path in paths]
    if not folders:
        return []
    try:
        common = os.path.commonpath(folders)
    # Paths on two drives share nothing.
    except ValueError:
        return folders
    # /home or /mnt is no folder of data.
    if len(Path(common).parts) <= 2:
        return folders
    return [common] * len(folders)


# --- tables ---------------------------------------------------------------------------------------


def _manifest_of(folder, choices):
    """Path of the manifest that a folder is read by; None where it is not read by one."""
    if choices.layout not in ("", "manifest"):
        return None
    tables = [file for file in _entries(folder) if file.name.lower() in MANIFESTS]
    if len(tables) > 1:
        raise DataError(
            f"{folder} can be read in two ways: it holds {tables[0].name} and {tables[1].name}. "
            f"Name the one that counts."
        )
    if not tables and choices.layout == "manifest":
        raise DataError(f"{folder} holds no manifest.csv: name the table itself.")
    return next(iter(tables), None)


def _table_layout(table, choices):
    """Layout of a table of patches."""
    if choices.layout not in ("", "manifest"):
        raise DataError(f"{table} is a table, not of the layout {choices.layout!r}: name a folder.")
    root, rows, problems, notes = manifests.read_manifest(table, choices)
    example = sentences_.example_of(rows, choices)
    sentences = [sentences_.read_as("manifest", example, detail=f" ({table.name})"), *notes]
    sentences += _unlisted_sentences(root, rows["path"], table)
    ignored = [
        name for name in ("score_from", "patient_from", "set_from") if name in choices.stated()
    ]
    if ignored:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        sentences.append(f"Of a table its columns count: {flags} changes nothing here.")
    return Layout(
        root=root,
        rows=rows,
        problems=problems,
        name="manifest",
        example=example,
        sentences=sentences,
        n_there=len(rows),
    )


def _unlisted_sentences(root, paths, table):
    """list of a sentence on images beside those of a table that it does not list; else empty."""
    listed = {os.path.normpath(path) for path in paths if path}
    unlisted = []
    for folder in sorted({os.path.dirname(path) for path in listed}):
        if not os.path.isdir(folder) or not os.access(folder, os.R_OK):
            continue
        for name in sorted(os.listdir(folder)):
            is_image = name.lower().endswith(SUFFIXES) and not listing.program_file(name)
            if is_image and os.path.join(folder, name) not in listed:
                unlisted.append(os.path.join(folder, name))
    if not unlisted:
        return []
    count = sentences_.count_text(len(unlisted), "image lies", "images lie")
    first = os.path.relpath(unlisted[0], root)
    return [f"{count} beside those of {table.name} and {_are(unlisted)} not listed in it: {first}."]


def _are(items):
    if len(items) == 1:
        return "is"
    return "are"


# --- folders --------------------------------------------------------------------------------------


def _folder_layout(path, choices):
    """Layout of a folder without a manifest."""
    path, lying = _list_data_folder(path, choices)
    images = [file for file in lying.files if file.lower().endswith(SUFFIXES)]
    public_set = _public_set(path, lying.files)
    if public_set and public_set.holds == "slides":
        raise DataError(
            f"{path} holds whole slides. {public_sets.sentence_of(public_set)} "
            f"Cut them first: her2 tile {shlex.quote(str(path))} --out FOLDER."
        )
    if not images:
        raise DataError(sentences_.nothing_sentence(path, lying))

    root, tree = _one_root(path, folder_roles.read_tree(images))
    ihc, he = _split_stains(path, tree)
    partner_of = _partners(ihc, he)
    name, level = name_layout(path, ihc, partner_of, public_set, choices, lying)
    rows, origin = rows_of(root, ihc, partner_of, name, level, public_set, choices)
    undecided, problems = two_scores(ihc, name, level, choices)
    crossed, more_problems = crossed_sets(ihc, choices)
    rows = _add_phantom_facts(rows[~undecided].reset_index(drop=True), root / PHANTOM_TABLE)
    above = _above(root, path)
    read = {f"{above}{file}" for file in [*rows["file"], *partner_of.values()]}
    refused = {f"{above}{file}" for file in ihc["file"][undecided]}
    _refuse_table_below(path, lying.files, read | refused, choices)
    problems += [*more_problems, *_problems_of_listing(lying)]
    problems += _strays(above, lying, he, read)

    example = sentences_.example_of(rows, choices)
    sentences = [
        sentences_.read_as(name, example, detail=_level_text(ihc, level)),
        *origin,
        *sentences_.crossing_sentences(crossed, undecided),
        *_public_sentences(public_set),
        *sentences_.aside_sentences(lying, read | refused),
        *lying.sentences(),
    ]
    return Layout(
        root=root,
        rows=rows,
        problems=problems,
        name=name,
        looks_like=getattr(public_set, "name", ""),
        example=example,
        sentences=sentences,
        n_there=len(lying.files) + len(lying.left_aside),
        n_partners=len(partner_of),
        n_refused=int(undecided.sum()),
    )


def _refuse_table_below(path, files, read, choices):
    """None; raises where a manifest deeper down tells of images that were read by their names."""
    if choices.layout:
        return
    for table in files:
        folder, name = os.path.split(table)
        # The external set of phantoms lies beside what is read, with a manifest of its own.
        tells = any(file.startswith(f"{folder}/") for file in read)
        if name.lower() in MANIFESTS and tells:
            raise DataError(
                f"{path} can be read in two ways: by its folders and names, or by {table} in it. "
                f"Name that table, or say --layout folders (names, bci, images) to leave it aside."
            )


def _list_data_folder(path, choices):
    """(folder, Listing): of a folder; of IHC alone, the folder above with IHC and HE."""
    if _name_of_folder(path).lower() != "ihc":
        return path, _listing_of(path, choices)
    path = Path(os.path.abspath(path))
    folders = [path, *(child for child in _entries(path.parent) if child.name == "HE")]
    files = []
    left_aside = []
    for folder in folders:
        lying = _listing_of(folder, choices)
        files += [f"{folder.name}/{file}" for file in lying.files]
        left_aside += [(f"{folder.name}/{file}", code) for file, code in lying.left_aside]
    return path.parent, Listing(path.parent, sorted(files), sorted(left_aside))


def _name_of_folder(path):
    """str, the name of a folder, of "." too."""
    return os.path.basename(os.path.abspath(path))


def _listing_of(folder, choices):
    """Listing of a folder; DataError where it may not be read."""
    try:
        return listing.list_files(folder, allow=choices.allow)
    except OSError as error:
        raise DataError(_locked_sentence(folder)) from error


def _entries(folder):
    """list of Path, what a folder holds, by name."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(_locked_sentence(folder)) from error


def _locked_sentence(folder):
    return f"{folder} may not be read: give yourself the right to read it."


def _public_set(path, files):
    """PublicSet that a folder looks like; None for none, and for phantoms, shaped like BCI."""
    if any(PurePosixPath(file).name == PHANTOM_TABLE for file in files):
        return None
    pictures = [file for file in files if file.lower().endswith((*SUFFIXES, *SLIDE_SUFFIXES))]
    return public_sets.recognise(_name_of_folder(path), pictures)


def _one_root(path, tree):
    """(folder that holds IHC, tree of what lies in it), and (path, tree) where there is no IHC."""
    tops = {}
    for folders, free in zip(tree["folders"], tree["free"], strict=True):
        lower = [folder.lower() for folder in folders]
        if "ihc" in lower:
            # A set above IHC (train/IHC) is no other data set.
            above = [folder for folder in free[: lower.index("ihc")] if folder]
            tops.setdefault("/".join(above), "/".join(folders[: len(above)]))
    if len(tops) > 1:
        one, other = list(tops)[:2]
        raise DataError(
            f"{path} holds several BCI folders ({one or '.'}, {other or '.'}): "
            f"name the one to read."
        )
    top = next(iter(tops.values()), "")
    if not top:
        return path, tree
    inside = [file for file in tree["file"] if file.startswith(f"{top}/")]
    return path / top, folder_roles.read_tree([file[len(top) + 1 :] for file in inside])


def _split_stains(path, tree):
    """(tree of HER2 images, tree of H&E images); images of other stains are in neither."""
    stains = set(tree["stain"])
    has_ihc = any("ihc" in map(str.lower, folders) for folders in tree["folders"])
    he = tree[tree["stain"] == "he"].reset_index(drop=True)
    if has_ihc or ("her2" in stains and stains & {"he", "other"}):
        wanted = tree["stain"] == "her2"
    else:
        wanted = tree["stain"].isin(["", "her2"])
    if not wanted.any():
        raise DataError(
            f"{path} holds images of other stains only ({tree['file'].iloc[0]} …): name the folder "
            f"of the HER2 images."
        )
    return tree[wanted].reset_index(drop=True), he


def _partners(ihc, he):
    """dict file -> H&E file of the same name, set and folders."""
    he_of_key = {}
    for key, file in zip(_partner_keys(he), he["file"], strict=True):
        he_of_key[key] = file
    keys = zip(_partner_keys(ihc), ihc["file"], strict=True)
    return {file: he_of_key[key] for key, file in keys if key in he_of_key}


def _partner_keys(tree):
    keys = []
    for row in tree.itertuples():
        keys.append((tuple(filter(None, row.free)), row.set, row.file.rpartition("/")[2]))
    return keys


def _add_phantom_facts(rows, csv):
    """rows with slide, patient, mpp and readings from phantom.csv, where it is there."""
    if not csv.is_file():
        return rows
    frame = read_text_table(csv, needed=("name",)).cells
    known = ["name", "slide", "patient", "mpp", *columns.rater_columns(frame)]
    frame = frame[[column for column in frame if column in known]]
    facts = frame.drop_duplicates("name").set_index("name")
    names = rows["file"].map(os.path.basename)
    for column in facts:
        of_name = names.map(facts[column])
        rows[column] = of_name.fillna(rows.get(column, ""))
    return columns.as_raw_table(rows)


# --- what is said ---------------------------------------------------------------------------------


def _level_text(ihc, level):
    if not level:
        return ""
    rows = [i for i, position in enumerate(level.position) if position >= 0]
    return f" ({folder_roles.level_name(ihc, level, rows[0])})"


def _problems_of_listing(lying):
    """list of problems: what was left aside although it may hold patches."""
    problems = []
    for file, code in lying.left_aside:
        if code == "outside":
            problems.append(("link", file, (os.path.realpath(lying.root / file),)))
        elif code == "locked":
            problems.append(("locked", file, ("permission denied",)))
        elif code == "letters" and file.lower().endswith(SUFFIXES):
            problems.append(("name", file, ()))
    return problems


def _public_sentences(public_set):
    if not public_set:
        return []
    return [public_sets.sentence_of(public_set)]


def _strays(above, lying, he, read):
    """list of problems: H&E images without partner, and what lies among images and is none."""
    problems = []
    for file in he["file"]:
        if f"{above}{file}" not in read:
            problems.append(("stray", file, ("an HE patch without its IHC partner",)))
    folders = {os.path.dirname(file) for file in read}
    for file in lying.files:
        is_image = file.lower().endswith(SUFFIXES)
        if not is_image and os.path.dirname(file) in folders and file not in read:
            name = file.removeprefix(above)
            if os.path.basename(file) not in PHANTOM_FILES:
                problems.append(("stray", name, ("no image by its name: left aside",)))
    return problems


def _above(root, path):
    """str, what stands in front of a path below root, seen from path: "" or "BCI/"."""
    if root == path:
        return ""
    return f"{root.relative_to(path).as_posix()}/"
