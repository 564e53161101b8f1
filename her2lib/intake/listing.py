"""What lies in a folder of strangers: one rule for what is no data, for links and for copies.

Every door lists folders with list_files, so nothing is read by one and dropped by another, and
what is left aside is counted and named.
"""

import filecmp
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Folders and files that programs leave behind, in lower case.
PROGRAM_FOLDERS = (
    "__macosx",
    ".ipynb_checkpoints",
    "@eadir",
    "$recycle.bin",
    "system volume information",
)
PROGRAM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "icon\r")
# What `her2 score` writes: maps and heat maps are pictures too, and no patches.
RESULT_FILES = {"scores.csv", "left_out.csv", "notes.txt"}
# What `her2 tile` draws of a slide, beside its log.
SLIDE_LOG = "fields.jsonl"
SLIDE_PICTURES = ("overview.png", "thumbnail.png")
# "a (1).png", "a - Copy.png", "a - Kopie (2).png": what a file manager calls a second copy.
COPY = re.compile(r"^(.+?)(?: - (?:Copy|Kopie|Copie|copia))?(?: ?\(\d+\))?$")

# code: why a file is left aside.
REASONS = {
    "program": "left by an operating system or program",
    "hidden": "hidden",
    "dangling": "a link to nothing",
    "loop": "a link back to a folder above",
    "outside": "a link that leaves the folder: --allow FOLDER names where it may lead",
    "locked": "may not be read",
    "letters": "a name that is no UTF-8, as old disks write them: rename it",
    "copy": "a copy of another file here, byte by byte",
    "special": "a device, not a file",
    "results": "results of an earlier `her2 score`",
    "slide picture": "a picture of a whole slide, by `her2 tile`",
}


@dataclass(frozen=True)
class Listing:
    """The files below a folder; files and left_aside together are all that lies there."""

    root: Path
    files: list[str]  # relative to root, with forward slashes, sorted
    left_aside: list[tuple[str, str]]  # (relative path, code in REASONS); a folder counts once

    def sentences(self) -> list[str]:
        """list of str, one a reason: how many files were left aside, and the first of them."""
        counts = Counter(code for _, code in self.left_aside)
        lines = []
        for code, count in counts.items():
            first = next(path for path, its_code in self.left_aside if its_code == code)
            lines.append(f"{count} left aside ({REASONS[code]}): {first}{_and_more(count)}.")
        return lines


def list_files(root: Path | str, *, allow: Sequence[Path | str] = ()) -> Listing:
    """Listing of all files below a folder, links followed where they end in root or in allow.

    root: the folder.  allow: further folders that links may lead into.
    Raises OSError where root itself may not be read.

    Example: list_files("my_patches/").files
    """
    root = Path(root)
    os.scandir(root).close()
    roots = real_roots([root, *allow])
    files: list[str] = []
    left_aside: list[tuple[str, str]] = []
    _list_folder(root, "", roots, (), files, left_aside)
    files, copies = _without_copies(root, sorted(files))
    return Listing(root, files, sorted([*left_aside, *copies]))


def program_file(name: str) -> str:
    """str, the code in REASONS of a name that is no data; "" for any other."""
    lower = name.lower()
    if lower in PROGRAM_FOLDERS or lower in PROGRAM_FILES or lower.startswith("._"):
        return "program"
    if lower.startswith((".", "~$")):
        return "hidden"
    return ""


def real_roots(folders: Iterable[Path | str]) -> list[str]:
    """list of str, each folder with its links followed, ending in a separator."""
    return [os.path.join(os.path.realpath(folder), "") for folder in folders]


def lies_in(path: Path | str, roots: Sequence[str]) -> bool:
    """bool, whether a path, its links followed, ends in one of real_roots."""
    target = os.path.join(os.path.realpath(path), "")
    return any(target.startswith(root) for root in roots)


# --- helpers ------------------------------------------------------------------------------------


def _list_folder(root, below, roots, above, files, left_aside):
    """Adds the files below root/below to files, and what is none of them to left_aside."""
    folder = root / below
    real = os.path.realpath(folder)
    if real in above:
        left_aside.append((below, "loop"))
        return
    try:
        entries = sorted(os.scandir(folder), key=_name_of)
    except OSError:
        left_aside.append((below, "locked"))
        return
    names = {entry.name for entry in entries}
    # Named as the root itself, such a folder is what the user wants to be read.
    if below and names >= RESULT_FILES:
        left_aside.append((below, "results"))
        return
    for entry in entries:
        path = f"{below}/{entry.name}".lstrip("/")
        code = program_file(entry.name) or _fault_of(entry, roots)
        if SLIDE_LOG in names and entry.name in SLIDE_PICTURES:
            code = code or "slide picture"
        if code:
            left_aside.append((path, code))
        elif entry.is_dir():
            _list_folder(root, path, roots, (*above, real), files, left_aside)
        else:
            files.append(path)


def _name_of(entry):
    return entry.name


def _fault_of(entry, roots):
    """str, the code in REASONS of an entry of a folder that is not to be read; "" for none."""
    # No table can hold such a name, so what was read would be lost by its name.
    if re.search("[\ud800-\udfff]", entry.name):
        return "letters"
    if entry.is_symlink():
        if not os.path.exists(entry.path):
            return "dangling"
        # A link of a file that leaves the folder is a patch that is refused by name.
        if entry.is_dir() and not lies_in(entry.path, roots):
            return "outside"
    if not entry.is_dir() and not entry.is_file():
        return "special"
    return ""


def _without_copies(root, files):
    """(files, [(file, "copy")]): without those that are named like a copy and are one."""
    present = set(files)
    kept_files = []
    copies = []
    for file in files:
        original = _original_of(file)
        same = original != file and original in present and _same_bytes(root, file, original)
        if same:
            copies.append((file, "copy"))
        else:
            kept_files.append(file)
    return kept_files, copies


def _original_of(file):
    """str, the file that "a (1).png" or "a - Copy.png" would be a copy of; else itself."""
    folder, name = os.path.split(file)
    stem, suffix = os.path.splitext(name)
    match = COPY.match(stem)
    if not match:
        return file
    return os.path.join(folder, match.group(1) + suffix)


def _same_bytes(root, file, other):
    try:
        return filecmp.cmp(root / file, root / other, shallow=False)
    except OSError:
        return False


def _and_more(count):
    if count == 1:
        return ""
    return " and others"
