"""Files and what names them: the project's folders, whole-file writes, JSON, hashes.

And the nearest right word where somebody wrote another one.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

# pandas takes 0.2 s to import, which `her2 --help` does without.
if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(os.environ.get("HER2_ROOT", Path(__file__).resolve().parents[1]))
# Where every study writes.
REPORTS = Path(os.environ.get("HER2_REPORTS", ROOT / "reports"))
# Phantoms and stores, safe to delete.
CACHE = Path(os.environ.get("HER2_CACHE", ROOT / ".cache"))


class DataError(ValueError):
    """One sentence about data that cannot be used, with the remedy."""


def usable_cores() -> int:
    """int, processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- reading and writing ----------------------------------------------------------------------


def resolve_path(path: Path | str) -> Path:
    """Path as written in a study file: absolute, or relative to the project."""
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    return ROOT / path


def make_folder(folder: Path | str) -> Path:
    """Path of a folder that now exists."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_text(file: Path | str, text: str) -> Path:
    """Path of a text file written whole: to a temporary name first, then renamed.

    Raises ValueError for a text with the name of a file whose bytes are no UTF-8.
    """
    try:
        return write_bytes(file, text.encode("utf-8"))
    except UnicodeEncodeError as error:
        line = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        raise ValueError(
            f"{Path(file).name} cannot hold {line[:200]!r}: a name in it has letters that are no "
            "UTF-8, as old disks write them. Rename that file or folder."
        ) from error


def write_bytes(file: Path | str, content: bytes) -> Path:
    """Path of a file written whole: to a temporary name first, then renamed."""
    file = Path(file)
    temporary = make_folder(file.parent) / f".{file.name}.{os.getpid()}.part"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        # A full disk leaves the old file and no half of the new one.
        temporary.unlink(missing_ok=True)
    return file


def write_table(file: Path | str, table: "pd.DataFrame") -> Path:
    """Path of a CSV written whole, one row per fact, without an index."""
    return write_text(file, table.to_csv(index=False))


def write_json(file: Path | str, record: Any) -> Path:
    """Path of a JSON file written whole; letters that are no UTF-8 are escaped, and read back."""
    text = json.dumps(record, indent=1, ensure_ascii=False, default=str)
    if re.search("[\ud800-\udfff]", text):
        text = json.dumps(record, indent=1, default=str)
    return write_text(file, text + "\n")


def read_json(file: Path) -> Any:
    """What a JSON file holds; an empty dict when there is none.

    Raises ValueError for a file that is damaged.
    """
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    # Text that is no JSON, or bytes that are no UTF-8.
    except ValueError as error:
        raise ValueError(
            f"{file} is damaged (no whole JSON): take it away and give the command that wrote it."
        ) from error


def keep_old(file: Path | str) -> Path | None:
    """Path of a copy of a file that is about to be changed, <stem>.before-<date> beside it.

    None where there is no such file. One copy a day: a later one replaces it where it differs.
    """
    file = Path(file)
    if not file.is_file():
        return None
    old = file.with_name(f"{file.stem}.before-{date.today().isoformat()}{file.suffix}")
    content = file.read_bytes()
    if not old.is_file() or old.read_bytes() != content:
        write_bytes(old, content)
    return old


# --- fingerprints -----------------------------------------------------------------------------


def fingerprint(*values: Any) -> str:
    """str, 16 hexadecimal digits over the JSON of any values: equal values, equal fingerprint."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_fingerprint(*names: str) -> str:
    """str over the source of these her2lib modules and of nothing that they import."""
    return fingerprint(
        [hashlib.sha256(source_file(name).read_bytes()).hexdigest() for name in names]
    )


def source_file(name: str) -> Path:
    """Path of the source of a notebook ("06_compare_models"), module ("data.patches") or room."""
    notebook = ROOT / "notebooks" / f"{name}.ipynb"
    if notebook.is_file():
        return notebook
    # No name is the library itself.
    parts = [part for part in name.split(".") if part]
    module = Path(__file__).parent.joinpath(*parts)
    if module.is_dir():
        return module / "__init__.py"
    return module.with_suffix(".py")


def file_facts(path: Path) -> list[tuple[str, int, int]]:
    """list of (name, bytes, time in ns) of a file or of every file below a folder; may be empty."""
    files = [path]
    if path.is_dir():
        files = sorted(path.rglob("*"))
    facts = []
    for file in files:
        if file.is_file():
            stat = file.stat()
            name = str(file.relative_to(path.parent))
            facts.append((name, stat.st_size, stat.st_mtime_ns))
    return facts


# --- words ------------------------------------------------------------------------------------


def did_you_mean(text: object, known: Iterable) -> str:
    """str, " Did you mean 'x'?" when one of the known is close to text, else the list of them."""
    names = [str(name) for name in known]
    close = get_close_matches(str(text), names, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(names)}."


# --- imports ----------------------------------------------------------------------------------


def skip_address_grammar() -> None:
    """Lets nbformat be imported from now on without parsing a grammar of web addresses.

    That grammar is for a format check of jsonschema which notebooks have no use for: importing
    nbformat and papermill takes 0.2 instead of 1.0 s of CPU in every process.
    """
    # None in this table makes Python refuse an import, as if the module were not installed.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
