"""A study: studies/*.toml read and checked, its runs, its folders. Imports no torch, so planning is instant."""

import itertools
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from her2lib import files as files_
from her2lib.files import did_you_mean
from her2lib.scores import SCORES

AXES = {  # one value of each is a run; the defaults are the smallest honest ones
    "network": ["resnet18"],
    "recipe": ["as_presented"],
    "weights": ["imagenet"],
    "side_px": [224],
    "n_train": [1.0],
    "split": ["official"],
    "seed": [0],
    "label_shuffle": ["none"],
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
TOP = ("question", "extra_axes", "extra_notebooks", *SECTIONS)
OLD_WORDS = {"also": "extra_axes", "rooms": "extra_notebooks", "twin": "label_shuffle"}
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
    "label_shuffle": ("none", "shuffled"),
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
    extra_axes: tuple
    extra_notebooks: tuple
    file: Path

    @property
    def folder(self):
        """Path reports/<study>, where everything that people read is written."""
        return files_.REPORTS / self.name

    @property
    def figures(self):
        """Path of the figures, made when first asked for."""
        return files_.make_folder(self.folder / "figures")

    @property
    def cohort_path(self):
        """Path of the patches: the user's folder or manifest, or where the phantoms of exactly these settings are written."""
        phantoms = files_.CACHE / "phantoms" / f"{self.name}-{files_.fingerprint(self.phantom)[:8]}"
        return (
            phantoms
            if self.data["source"] == "phantom"
            else files_.resolve_path(self.data["source"])
        )

    @property
    def external_path(self):
        """Path of the external set: the user's own, or the phantoms' other laboratory, or None."""
        if self.data["external"]:
            return files_.resolve_path(self.data["external"])
        return (
            self.cohort_path / "external"
            if self.data["source"] == "phantom" and self.phantom.get("external")
            else None
        )

    @property
    def reread_path(self):
        """Path of a CSV (patch, reread) of scores read again, or None."""
        return files_.resolve_path(self.data["reread"]) if self.data["reread"] else None

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
            for fact in files_.file_facts(sheet)
        ]

    @property
    def store(self):
        """Path of the decode-once stores, shared by all studies because their keys name the content."""
        return files_.CACHE / "stores"

    def folder_of(self, task):
        """Path runs/<task>: one execution of one notebook."""
        return self.folder / "runs" / task

    def runs(self):
        """list of dict, one per run: its name and the value of every axis, in reading order."""
        grids = [self.axes] + [
            {**{axis: values[:1] for axis, values in self.axes.items()}, **extra}
            for extra in self.extra_axes
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
            raise StudyError(f"Study {self.name!r} has no run {run!r}.{did_you_mean(run, rows)}")
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
        file = files_.resolve_path(word)
        if word.startswith("study:"):
            other = load_study(word.removeprefix("study:"))
            same = [
                its
                for its in other.runs()
                if its["label_shuffle"] == "none"
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
        return [row, self.train, *files_.file_facts(Path(self.start(row)))]


def load_study(name):
    """Study from a name in studies/ or reports/, or a path of a .toml file; every key checked, nothing guessed."""
    own = (
        files_.ROOT / "studies" / f"{name}.toml",
        files_.REPORTS / str(name) / f"{name}.toml",
    )  # the second was made by her2 run --data
    file = next(
        (
            place
            for place in ((Path(name), files_.ROOT / name) if str(name).endswith(".toml") else own)
            if place.is_file()
        ),
        own[0],
    )
    if not file.is_file():
        raise StudyError(
            f"There is no study file {name!r}.{did_you_mean(name, [f.stem for f in study_files()])}"
        )
    try:
        written = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{file.name} is not valid TOML: {error}") from error
    return check_study(written, file)


def check_study(written, file):
    """Study from a parsed TOML dictionary; a misspelt key is an error that names the right word."""
    written = _in_new_words(written)
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
    extra_axes = tuple(
        {axis: _values(v) for axis, v in extra.items()} for extra in written.get("extra_axes", [])
    )
    parts["axes"] = {axis: _values(values) for axis, values in parts["axes"].items()}
    for grid in (parts["axes"], *extra_axes):
        _check_axes(grid, file.name)
    if not re.fullmatch(r"[\w.-]+", file.stem):
        raise StudyError(
            f"{file.name}: name a study with letters, digits, dots, dashes and underscores only."
        )
    return Study(
        name=file.stem,
        question=str(written.get("question", "")),
        extra_axes=extra_axes,
        extra_notebooks=tuple(written.get("extra_notebooks", ())),
        file=file,
        **parts,
    )


def study_files():
    """list of Path, every study file of the project."""
    return sorted(
        file for file in (files_.ROOT / "studies").glob("*.toml") if file.stem != "published"
    )


def make_study(path, *, name="", networks=("resnet18",), skip_bad=False, **changes):
    """Path of a new study file for a user's folder or manifest, made from studies/data.toml; written whole."""
    source = Path(path).expanduser().resolve()
    if not source.exists():
        raise StudyError(f"There is nothing at {path}: give a folder of patches or a manifest.csv.")
    stem = source.parent.name if source.name == "manifest.csv" else source.stem
    name = name or re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "data"
    text = (files_.ROOT / "studies" / "data.toml").read_text(encoding="utf-8")
    for key, value in {
        "source": str(source),
        "skip_bad": skip_bad,
        "network": list(networks),
        **changes,
    }.items():
        text = re.sub(
            rf"^{key} = .*$", lambda _: f"{key} = {json.dumps(value)}", text, count=1, flags=re.M
        )  # noqa: B023
    return files_.write_text(files_.make_folder(files_.REPORTS / name) / f"{name}.toml", text)


def _run_name(row):
    weights = re.sub(r"[^\w]+", "_", Path(str(row["weights"])).stem)
    shuffled = "" if row["label_shuffle"] == "none" else f"-{row['label_shuffle']}"
    split = "" if row["split"] == "official" else f"-{row['split']}"
    share = f"n{100 * row['n_train']:g}"
    return f"{row['network']}-{row['recipe']}-{weights}-{row['side_px']}px-{share}-s{row['seed']}{split}{shuffled}"


def _in_new_words(written):
    """The tables of a study file with every key of OLD_WORDS under its new name: old files stay valid."""
    if isinstance(written, list):
        return [_in_new_words(item) for item in written]
    if not isinstance(written, dict):
        return written
    return {OLD_WORDS.get(key, key): _in_new_words(value) for key, value in written.items()}


def _values(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _known(given, words, file, where):
    for word in given:
        if word not in words:
            raise StudyError(f"{file}: unknown key {word!r}{where}.{did_you_mean(word, words)}")


def _check_axes(grid, file):
    _known(grid, AXES, file, " in an axis")
    for axis, values in grid.items():
        for value in values:
            if axis in CHOICES and value not in CHOICES[axis]:
                raise StudyError(
                    f"{file}: unknown {axis} {value!r}.{did_you_mean(value, CHOICES[axis])}"
                )
            if axis in ("side_px", "seed") and (not isinstance(value, int) or value < 0):
                raise StudyError(f"{file}: {axis} must be whole numbers, not {value!r}.")
            if axis == "n_train" and not 0 < float(value) <= 1:
                raise StudyError(
                    f"{file}: n_train is a share of the training patches in (0, 1], not {value!r}."
                )
