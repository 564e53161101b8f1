"""What a study file may hold: its tables, keys and values, each checked; the known networks.

A wrong key or value is a StudyError that names the right one. Imports no torch.
"""

import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from her2lib.files import did_you_mean

# one value of each axis is a run; the defaults are the smallest honest ones
AXES = {
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
        # how the patches are to be read, as intake/choices.py says; empty is found out
        "layout": "",
        "score_from": "",
        "patient_from": "",
        "set_from": "",
        "allow": [],
        "mpp": 0.0,  # of patches that do not state it; 0 for unknown
        "any_field": False,
    },
    "scores": None,  # words of this study for scores: negative = "0"
    "phantom": None,  # keyword arguments of write_phantoms, which checks them
    "axes": AXES,
    "train": None,  # changes to every recipe, which recipes.recipe checks
    "maps": {"patches": 24, "gallery": 8, "resamples": 2000},
    "published": {"file": ""},
}
# what the type of a default is called in a sentence
TYPES = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
}
# a study file knows these keys at its top
KEYS = ("question", "extra_axes", "extra_notebooks", *SECTIONS)


@dataclass(frozen=True)
class KnownNetwork:
    """What the kit says of a network; its code is a row of BACKBONES in networks/models.py."""

    title: str  # as people read it
    design: str
    notebook: str  # that trains it
    million_weights: float
    megabytes: float  # kept for the backward pass by a patch of 224 px in float32, torch 2.14


NETWORKS = {
    "resnet18": KnownNetwork(
        title="ResNet18",
        design="18-layer residual convolutional network",
        notebook="02_train_resnet18",
        million_weights=11.2,
        megabytes=22.2,
    ),
    "densenet201": KnownNetwork(
        title="DenseNet-201",
        design="201-layer densely connected convolutional network",
        notebook="03_train_densenet201",
        million_weights=18.1,
        megabytes=203.9,
    ),
    "vit_b16": KnownNetwork(
        title="ViT-B/16",
        design="vision transformer, patches of 16 px, 12 layers of 12 heads",
        notebook="04_train_vit",
        million_weights=85.8,
        megabytes=118.2,
    ),
    "vit_tiny": KnownNetwork(
        title="ViT-Tiny",
        design="small vision transformer, patches of 16 px, 12 layers of 3 heads",
        notebook="04_train_vit",
        million_weights=5.5,
        megabytes=30.0,
    ),
    "hybrid": KnownNetwork(
        title="Hybrid ViT",
        design="4 transformer layers of 8 heads and width 512 over the feature map of a ResNet18",
        notebook="05_train_hybrid_vit",
        million_weights=24.1,
        megabytes=29.0,
    ),
}
# files of the words before stay valid
OLD_WORDS = {"also": "extra_axes", "rooms": "extra_notebooks", "twin": "label_shuffle"}

CHOICES = {
    "network": tuple(NETWORKS),
    "split": ("official", "random", "grouped"),
    "label_shuffle": ("none", "shuffled"),
}


class StudyError(ValueError):
    """A study file that cannot be used; the sentence names the remedy."""


# --- reading and checking -----------------------------------------------------------------------


def read_toml(file: Path, **options) -> dict:
    """dict of a TOML file; options are tomllib's.

    Raises StudyError with the line that cannot be read.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"), **options)
    except UnicodeDecodeError as error:
        raise StudyError(f"{file.name} is not UTF-8: save it with that encoding.") from error
    except tomllib.TOMLDecodeError as error:
        # tomllib ends its own words with "(at line 3, column 5)", or "(at end of document)".
        spot = re.search(r"\((at [^()]*)\)$", str(error))
        where = ""
        if spot:
            where = f" {spot.group(1)}"
        raise StudyError(
            f"{file.name} is not valid TOML{where}: a table begins with its [name], a line is "
            "key = value, texts stand in quotes, and no key stands twice in a table."
        ) from error


def checked_tables(tables: dict, file: str) -> tuple[dict, dict]:
    """(tables in the words of today, dict section -> dict filled with defaults), all checked.

    Every axis is a list. tables: of a study file.  file: its name, for sentences. Raises
    StudyError for the first key or value that is wrong.

    Example: checked_tables({"axes": {"seed": 1}}, "mine.toml")[1]["axes"]["seed"] == [1]
    """
    tables = _in_new_words(tables)
    _check_keys(tables, KEYS, file)
    sections = _filled_sections(tables, file)
    for section in ("data", "maps", "published"):
        _check_types(sections[section], SECTIONS[section], file, where=f" in [{section}]")
    _check_lists_of_top(tables, file)
    sections["axes"] = _lists(sections["axes"])
    tables["extra_axes"] = [_lists(extra) for extra in tables.get("extra_axes", [])]
    for grid in (sections["axes"], *tables["extra_axes"]):
        _check_axes(grid, file)
    return tables, sections


# --- helpers ------------------------------------------------------------------------------------


def _in_new_words(tables):
    """The tables of a study file with every key of OLD_WORDS renamed: old files stay valid."""
    if isinstance(tables, list):
        return [_in_new_words(item) for item in tables]
    if not isinstance(tables, dict):
        return tables
    return {OLD_WORDS.get(key, key): _in_new_words(value) for key, value in tables.items()}


def _filled_sections(tables, file):
    """dict section -> dict, the file's tables over their defaults, every key known."""
    sections = {}
    for section, defaults in SECTIONS.items():
        table = tables.get(section, {})
        if not isinstance(table, dict):
            raise StudyError(f"{file}: {section} must be a table, written as [{section}].")
        if defaults is not None:
            _check_keys(table, defaults, file, where=f" in [{section}]")
        sections[section] = {**(defaults or {}), **table}
    return sections


def _check_types(table, defaults, file, *, where):
    """None; raises for a value of another type than the default's: text where a number belongs."""
    for key, value in table.items():
        default = defaults[key]
        if isinstance(default, float):
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            fits = fits and math.isfinite(value)
        else:
            fits = default is None or type(value) is type(default)
        if not fits:
            noun = TYPES[type(default)]
            raise StudyError(f"{file}: {key}{where} is {noun}, not {value!r}.")


def _check_lists_of_top(tables, file):
    """None; raises where what stands above all tables is not as a study writes it."""
    grids = tables.get("extra_axes", [])
    if not isinstance(grids, list) or not all(isinstance(grid, dict) for grid in grids):
        raise StudyError(f"{file}: write extra_axes as tables, each headed [[extra_axes]].")
    names = tables.get("extra_notebooks", [])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise StudyError(f"{file}: extra_notebooks is a list of names in quotes.")


def _lists(axes):
    """dict axis -> list of its values; a single value may be written without brackets."""
    lists = {}
    for axis, values in axes.items():
        if not isinstance(values, (list, tuple)):
            values = [values]
        lists[axis] = list(values)
    return lists


def _check_axes(grid, file):
    """None; raises for an unknown axis and for a value that an axis cannot have."""
    _check_keys(grid, AXES, file, where=" in an axis")
    for axis, values in grid.items():
        if not values:
            raise StudyError(f"{file}: {axis} is an empty list: give it a value, or leave it out.")
        for value in values:
            _check_axis_value(axis, value, file)


def _check_axis_value(axis, value, file):
    if axis in CHOICES and value not in CHOICES[axis]:
        raise StudyError(f"{file}: unknown {axis} {value!r}.{did_you_mean(value, CHOICES[axis])}")
    if axis in ("side_px", "seed") and (type(value) is not int or value < 0):
        raise StudyError(f"{file}: {axis} must be whole numbers, not {value!r}.")
    if axis in ("recipe", "weights") and not isinstance(value, str):
        raise StudyError(f"{file}: {axis} must be a text in quotes, not {value!r}.")
    if axis == "n_train" and not (isinstance(value, int | float) and 0 < value <= 1):
        raise StudyError(
            f"{file}: n_train is a share of the training patches in (0, 1], not {value!r}."
        )


def _check_keys(table: dict, known: Iterable[str], file: str, *, where: str = ""):
    """None; raises for the first key that is not known, with the nearest right word."""
    for key in table:
        if key not in known:
            raise StudyError(f"{file}: unknown key {key!r}{where}.{did_you_mean(key, known)}")
