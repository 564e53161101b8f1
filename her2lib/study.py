"""Read studies/*.toml, know every place, fingerprint data, code and environment. No torch here: planning is instant."""

import ast
import hashlib
import itertools
import json
import os
import platform
import re
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from her2lib.scores import SCORES, nearest

ROOT = Path(os.environ.get("HER2_ROOT", Path(__file__).resolve().parents[1]))
REPORTS = Path(os.environ.get("HER2_REPORTS", ROOT / "reports"))  # where every study writes
CACHE = Path(os.environ.get("HER2_CACHE", ROOT / ".cache"))  # phantoms and stores, safe to delete

AXES = {  # one value of each is a run; the defaults are the smallest honest ones
    "network": ["resnet18"],
    "recipe": ["as_presented"],
    "weights": ["imagenet"],
    "side_px": [224],
    "n_train": [1.0],
    "split": ["official"],
    "seed": [0],
    "twin": ["none"],
}
SECTIONS = {
    "data": {
        "source": "phantom",
        "external": "",
        "val": 0.2,
        "test": 0.2,
        "split_seed": 0,
        "skip_bad": False,
        "scores": [],
        "reread": "",
    },
    "phantom": None,  # keyword arguments of phantom.write, which checks them
    "axes": AXES,
    "train": None,  # changes to every recipe; train.recipe checks them
    "maps": {"patches": 24, "gallery": 8, "resamples": 2000},
    "published": {"file": ""},
}
TOP = ("question", "also", "rooms", *SECTIONS)
NOTEBOOK_OF = {
    "resnet18": "02_train_resnet18",
    "densenet201": "03_train_densenet201",
    "vit_b16": "04_train_vit",
    "vit_tiny": "04_train_vit",
    "hybrid": "05_train_hybrid_vit",
}
# says which labels are in doubt, and reads the sheets that people have filled in
REVIEW = "09_label_review"
CHOICES = {
    "network": tuple(NOTEBOOK_OF),
    "split": ("official", "random", "grouped"),
    "twin": ("none", "shuffled"),
}


class StudyError(ValueError):
    """A study file that cannot be used; the sentence names the remedy."""


@dataclass(frozen=True)
class Study:
    """One question with its data, its runs and its places."""

    name: str
    question: str
    data: dict
    phantom: dict
    axes: dict
    train: dict
    maps: dict
    published: dict
    also: tuple
    rooms: tuple
    file: Path

    @property
    def folder(self):
        """Path reports/<study>, where everything that people read is written."""
        return REPORTS / self.name

    @property
    def figures(self):
        """Path of the figures, made when first asked for."""
        return made(self.folder / "figures")

    @property
    def cohort_path(self):
        """Path of the patches: the user's folder or manifest, or where the phantoms of exactly these settings are written."""
        phantoms = CACHE / "phantoms" / f"{self.name}-{fingerprint(self.phantom)[:8]}"
        return phantoms if self.data["source"] == "phantom" else located(self.data["source"])

    @property
    def external_path(self):
        """Path of the external set: the user's own, or the phantoms' other laboratory, or None."""
        if self.data["external"]:
            return located(self.data["external"])
        return (
            self.cohort_path / "external"
            if self.data["source"] == "phantom" and self.phantom.get("external")
            else None
        )

    @property
    def reread_path(self):
        """Path of a CSV (patch, reread) of scores read again, or None."""
        return located(self.data["reread"]) if self.data["reread"] else None

    @property
    def readings(self):
        """list of (name, bytes, time) of the sheets below reading/ that were saved after they had been handed out."""
        keys = sorted((self.folder / "reading").glob("*/key.csv"))  # written last
        sheets = [
            (key.stat(), sheet) for key in keys for sheet in sorted(key.parent.glob("*/sheet.csv"))
        ]
        return [
            fact
            for key, sheet in sheets
            if sheet.stat().st_mtime_ns > key.st_mtime_ns
            for fact in listing(sheet)
        ]

    @property
    def store(self):
        """Path of the decode-once stores, shared by all studies because their keys name the content."""
        return CACHE / "stores"

    def folder_of(self, task):
        """Path runs/<task>: one execution of one notebook."""
        return self.folder / "runs" / task

    def runs(self):
        """list of dict, one per run: its name and the value of every axis, in reading order."""
        grids = [self.axes] + [
            {**{axis: values[:1] for axis, values in self.axes.items()}, **extra}
            for extra in self.also
        ]
        rows = [
            dict(zip(grid, values, strict=True))
            for grid in grids
            for values in itertools.product(*grid.values())
        ]
        return list(
            {row["run"]: row for row in ({"run": _run_name(row), **row} for row in rows)}.values()
        )

    def run(self, run=""):
        """dict of one run's axes by name; "" means the first."""
        rows = {row["run"]: row for row in self.runs()}
        if run and run not in rows:
            raise StudyError(f"Study {self.name!r} has no run {run!r}.{nearest(run, rows)}")
        return rows[run] if run else next(iter(rows.values()))

    def first_run(self, *networks):
        """str, the name of the first run of one of these networks."""
        for row in self.runs():
            if row["network"] in networks:
                return row["run"]
        raise StudyError(
            f"Study {self.name!r} has no run of {' or '.join(networks)}: add it to network under [axes] in {self.file.name}."
        )

    def start(self, row):
        """str, what a run's network starts from: imagenet, none, or a file; "study:NAME" is the same network as trained in NAME."""
        word = str(row["weights"])
        if word in ("imagenet", "none"):
            return word
        file = located(word)
        if word.startswith("study:"):
            other = load(word.removeprefix("study:"))
            same = [
                its
                for its in other.runs()
                if its["twin"] == "none"
                and all(its[axis] == row[axis] for axis in ("network", "side_px"))
            ]
            file = (
                other.folder_of(
                    max(same or [row], key=lambda its: its["seed"] == row["seed"])["run"]
                )
                / "model.safetensors"
            )
        if not file.is_file():
            raise StudyError(
                f"{row['run']} starts from {word}, but there is no {file}: run that study first, or give none or a file."
            )
        return str(file)

    def stands_on(self, row):
        """list, what a run's result hangs on besides patches and code: its axes, the changed recipe, the file it starts from."""
        return [row, self.train, *listing(Path(self.start(row)))]


def load(name):
    """Study from a name in studies/ or reports/, or a path of a .toml file; every key checked, nothing guessed."""
    own = (
        ROOT / "studies" / f"{name}.toml",
        REPORTS / str(name) / f"{name}.toml",
    )  # the second was made by her2 run --data
    file = next(
        (
            place
            for place in ((Path(name), ROOT / name) if str(name).endswith(".toml") else own)
            if place.is_file()
        ),
        own[0],
    )
    if not file.is_file():
        raise StudyError(
            f"There is no study file {name!r}.{nearest(name, [f.stem for f in studies()])}"
        )
    try:
        written = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{file.name} is not valid TOML: {error}") from error
    return checked(written, file)


def checked(written, file):
    """Study from a parsed TOML dictionary; a misspelt key is an error that names the right word."""
    _known(written, TOP, file.name, "")
    parts = {}
    for section, defaults in SECTIONS.items():
        given = written.get(section, {})
        if not isinstance(given, dict):
            raise StudyError(f"{file.name}: {section} must be a table, written as [{section}].")
        if defaults is not None:
            _known(given, defaults, file.name, f" in [{section}]")
        parts[section] = {**(defaults or {}), **given}
    parts["data"]["scores"] = wanted = [str(word) for word in parts["data"]["scores"]]
    for word in set(wanted) - set(SCORES):
        raise StudyError(f"{file.name}: scores in [data] are {', '.join(SCORES)}, not {word!r}.")
    also = tuple(
        {axis: _values(v) for axis, v in extra.items()} for extra in written.get("also", [])
    )
    parts["axes"] = {axis: _values(values) for axis, values in parts["axes"].items()}
    for grid in (parts["axes"], *also):
        _check_axes(grid, file.name)
    if not re.fullmatch(r"[\w.-]+", file.stem):
        raise StudyError(
            f"{file.name}: name a study with letters, digits, dots, dashes and underscores only."
        )
    return Study(
        name=file.stem,
        question=str(written.get("question", "")),
        also=also,
        rooms=tuple(written.get("rooms", ())),
        file=file,
        **parts,
    )


def studies():
    """list of Path, every study file of the project."""
    return sorted(file for file in (ROOT / "studies").glob("*.toml") if file.stem != "published")


def from_data(path, *, name="", networks=("resnet18",), skip_bad=False, **changes):
    """Path of a new study file for a user's folder or manifest, made from studies/data.toml; written whole."""
    source = Path(path).expanduser().resolve()
    if not source.exists():
        raise StudyError(f"There is nothing at {path}: give a folder of patches or a manifest.csv.")
    stem = source.parent.name if source.name == "manifest.csv" else source.stem
    name = name or re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "data"
    text = (ROOT / "studies" / "data.toml").read_text(encoding="utf-8")
    for key, value in {
        "source": str(source),
        "skip_bad": skip_bad,
        "network": list(networks),
        **changes,
    }.items():
        text = re.sub(
            rf"^{key} = .*$", lambda _: f"{key} = {json.dumps(value)}", text, count=1, flags=re.M
        )  # noqa: B023
    return write_text(made(REPORTS / name) / f"{name}.toml", text)


def cores():
    """int, processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def located(path):
    """Path as written in a study file: absolute, or relative to the project."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path


def made(folder):
    """Path of a folder that now exists."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def write_text(file, text):
    """Path of a text file written whole: to a temporary name first, then renamed."""
    return write_bytes(file, text.encode("utf-8"))


def write_bytes(file, content):
    """Path of a file written whole: to a temporary name first, then renamed."""
    file = Path(file)
    temporary = made(file.parent) / f".{file.name}.{os.getpid()}.part"
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


def data_fingerprint(study):
    """str over what the patches are: phantom settings, or names, sizes and times of the files."""
    outside = [
        listing(place)
        for place in (study.data["external"] and study.external_path, study.reread_path)
        if place
    ]
    if study.data["source"] == "phantom":
        return fingerprint("phantom", study.phantom, code_fingerprint("phantom"), *outside)
    return fingerprint([listing(study.cohort_path), *outside])


def code_fingerprint(*names):
    """str over the source of notebooks or modules and of every her2lib module that they import, however deep."""
    files, waiting = {}, [_source(name) for name in names]
    while waiting:
        file = waiting.pop()
        if file.name not in files:
            text = _code(file)
            files[file.name] = hashlib.sha256(text.encode()).hexdigest()
            waiting += [_source(module) for module in imports(text)]
    return fingerprint(files)


def source_fingerprint(*names):
    """str over the source of these her2lib modules and of nothing that they import."""
    return fingerprint([hashlib.sha256(_source(name).read_bytes()).hexdigest() for name in names])


def imports(text):
    """set of str, the her2lib modules that Python source imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "her2lib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("her2lib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("her2lib.")
            }
    return found


def environment():
    """dict of what the numbers stand on: Python, platform and the versions of the packages that matter."""
    packages, lock = (
        ("torch", "torchvision", "timm", "numpy", "scikit-learn", "captum", "papermill"),
        ROOT / "requirements.lock",
    )
    versions = {
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
    }
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.is_file() else ""
    return {**versions, "platform": platform.platform(), "lock": digest}


def _run_name(row):
    weights = re.sub(r"[^\w]+", "_", Path(str(row["weights"])).stem)
    twin = "" if row["twin"] == "none" else f"-{row['twin']}"
    split = "" if row["split"] == "official" else f"-{row['split']}"
    share = f"n{100 * row['n_train']:g}"
    return f"{row['network']}-{row['recipe']}-{weights}-{row['side_px']}px-{share}-s{row['seed']}{split}{twin}"


def _values(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _known(given, words, file, where):
    for word in given:
        if word not in words:
            raise StudyError(f"{file}: unknown key {word!r}{where}.{nearest(word, words)}")


def _check_axes(grid, file):
    _known(grid, AXES, file, " in an axis")
    for axis, values in grid.items():
        for value in values:
            if axis in CHOICES and value not in CHOICES[axis]:
                raise StudyError(
                    f"{file}: unknown {axis} {value!r}.{nearest(value, CHOICES[axis])}"
                )
            if axis in ("side_px", "seed") and (not isinstance(value, int) or value < 0):
                raise StudyError(f"{file}: {axis} must be whole numbers, not {value!r}.")
            if axis == "n_train" and not 0 < float(value) <= 1:
                raise StudyError(
                    f"{file}: n_train is a share of the training patches in (0, 1], not {value!r}."
                )


def listing(place):
    """list of (name, bytes, time) of a file or of every file below a folder; empty where there is nothing."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    found = [(str(file.relative_to(place.parent)), file.stat()) for file in files if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def _source(name):
    notebook = ROOT / "notebooks" / f"{name}.ipynb"
    return notebook if notebook.is_file() else Path(__file__).parent / f"{name}.py"


def _code(file):
    if file.suffix != ".ipynb":
        return file.read_text(encoding="utf-8")
    return "\n".join(
        "".join(cell["source"]) for cell in read_json(file)["cells"] if cell["cell_type"] == "code"
    )
