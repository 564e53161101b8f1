"""What a result stands on, as hashes: patches, code with all it imports, packages. No torch."""

import ast
import hashlib
import platform
from importlib import metadata
from pathlib import Path

from her2lib.files import ROOT, file_facts, fingerprint, read_json, source_file
from her2lib.study.config import Study

# Of the way fingerprints are made. Scheme 1 knew modules by flat names ("patches" for today's
# "data.patches"), so a code fingerprint of it equals none of today's even where no code changed.
VERSION = 2
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "captum", "papermill")


def data_fingerprint(study: Study) -> str:
    """str over what the patches are: phantom settings, or names, sizes and times of the files."""
    beside: list = []
    if study.data["external"] and study.external_path:
        beside.append(file_facts(study.external_path))
    if study.reread_path:
        beside.append(file_facts(study.reread_path))
    if study.choices.stated():
        # the same files read in another way are other patches
        beside.append(study.choices.stated())
    if study.data["source"] == "phantom":
        painters = code_fingerprint("phantoms.dataset")
        return fingerprint("phantom", study.phantom, painters, *beside)
    return fingerprint([file_facts(study.cohort_path), *beside])


def code_fingerprint(*names: str) -> str:
    """str over the source of notebooks or modules and of all that they import, however deep."""
    digests = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in digests:
            continue
        source = _python_source(source_file(name))
        digests[name] = hashlib.sha256(source.encode()).hexdigest()
        waiting.extend(imported_modules(source))
    return fingerprint(digests)


def imported_modules(source: str) -> set[str]:
    """set of str, the modules of her2lib that Python source imports: "data.patches", "plots".

    A name that is no module comes through the door of its room: that counts as the whole room.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    modules: set[str] = set()
    for name in names:
        if name.split(".")[0] == "her2lib":
            modules |= _modules_behind(name.removeprefix("her2lib").removeprefix("."))
    return modules


def environment() -> dict[str, str]:
    """dict of what the numbers stand on: Python, platform, versions of the packages that matter."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = metadata.version(package)
    lock = ROOT / "requirements.lock"
    digest = ""
    if lock.is_file():
        digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    return {**versions, "platform": platform.platform(), "lock": digest}


def _modules_behind(name):
    """set of str, the modules that a dotted name below her2lib stands for: one, or a whole room."""
    file = source_file(name)
    if file.is_file() and file.name != "__init__.py":
        return {name}
    if file.is_file():
        return {_dotted_name(module) for module in file.parent.rglob("*.py")}
    # the last part is a name within a module, or one that the door of a room hands on
    room = name.rpartition(".")[0]
    return _modules_behind(room)


def _dotted_name(module: Path) -> str:
    """str, "data.patches" of the path of that module."""
    library = source_file("").parent
    return ".".join(module.relative_to(library).with_suffix("").parts)


def _python_source(file):
    """str, the code of a module, or of all code cells of a notebook."""
    if file.suffix != ".ipynb":
        return file.read_text(encoding="utf-8")
    cells = [cell for cell in read_json(file)["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(cell["source"]) for cell in cells)
