"""Files and the words in them: the project's folders, whole-file writes, JSON, hashes, and the nearest right word."""

import hashlib
import json
import os
from difflib import get_close_matches
from pathlib import Path

ROOT = Path(os.environ.get("HER2_ROOT", Path(__file__).resolve().parents[1]))
REPORTS = Path(os.environ.get("HER2_REPORTS", ROOT / "reports"))  # where every study writes
CACHE = Path(os.environ.get("HER2_CACHE", ROOT / ".cache"))  # phantoms and stores, safe to delete


def usable_cores():
    """int, processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def resolve_path(path):
    """Path as written in a study file: absolute, or relative to the project."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path


def make_folder(folder):
    """Path of a folder that now exists."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def write_text(file, text):
    """Path of a text file written whole: to a temporary name first, then renamed."""
    return write_bytes(file, text.encode("utf-8"))


def write_bytes(file, content):
    """Path of a file written whole: to a temporary name first, then renamed."""
    file = Path(file)
    temporary = make_folder(file.parent) / f".{file.name}.{os.getpid()}.part"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        temporary.unlink(
            missing_ok=True
        )  # a full disk leaves the old file and no half of the new one
    return file


def write_table(file, table):
    """Path of a CSV written whole, one row per fact, without an index."""
    return write_text(file, table.to_csv(index=False))


def write_json(file, record):
    """Path of a JSON file written whole."""
    return write_text(file, json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(file):
    """What a JSON file holds; an empty dict when there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def fingerprint(*values):
    """str, 16 hexadecimal digits over the JSON of any values: equal values, equal fingerprint."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def source_fingerprint(*names):
    """str over the source of these her2lib modules and of nothing that they import."""
    return fingerprint(
        [hashlib.sha256(source_file(name).read_bytes()).hexdigest() for name in names]
    )


def file_facts(place):
    """list of (name, bytes, time) of a file or of every file below a folder; empty where there is nothing."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    found = [(str(file.relative_to(place.parent)), file.stat()) for file in files if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def source_file(name):
    """Path of the source of a notebook ("06_compare_models"), a module ("data.patches") or a room ("data")."""
    notebook = ROOT / "notebooks" / f"{name}.ipynb"
    if notebook.is_file():
        return notebook
    place = Path(__file__).parent.joinpath(*filter(None, name.split(".")))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def did_you_mean(word, words):
    """str, " Did you mean 'x'?" when one of words is close to word, else the list of right words."""
    close = get_close_matches(str(word), [str(w) for w in words], n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(map(str, words))}."
