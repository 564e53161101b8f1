"""A study: a file of studies/ read and checked, its runs, its folders. Imports no torch."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from her2lib import files as files_
from her2lib.files import did_you_mean
from her2lib.intake.choices import Choices
from her2lib.scores import SCORES, parse_score
from her2lib.study.keys import StudyError, checked_tables, read_toml

# files beside the studies: figures to audit, claims to judge
NO_STUDIES = ("claims", "published")
# says which labels are in doubt, and reads the sheets that people have filled in
REVIEW = "09_label_review"


@dataclass(frozen=True)
class Study:
    """One question with its data, its runs and its folders; each table of the file is a dict."""

    name: str
    question: str
    data: dict
    scores: dict  # word -> score of this study, {"negative": "0"}
    phantom: dict
    axes: dict[str, list]
    train: dict
    maps: dict
    published: dict
    extra_axes: tuple[dict, ...]
    extra_notebooks: tuple[str, ...]
    file: Path

    # --- folders and files ----------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Path reports/<study>, where everything that people read is written."""
        return files_.REPORTS / self.name

    @property
    def figures(self) -> Path:
        """Path of the figures, made when first asked for."""
        return files_.make_folder(self.folder / "figures")

    @property
    def store(self) -> Path:
        """Path of the decode-once stores, shared by all studies: their keys name the content."""
        return files_.CACHE / "stores"

    @property
    def cohort_path(self) -> Path:
        """Path of the patches: the user's folder or manifest, or of phantoms of these settings."""
        if self.data["source"] != "phantom":
            return files_.resolve_path(self.data["source"])
        settings = files_.fingerprint(self.phantom)[:8]
        return files_.CACHE / "phantoms" / f"{self.name}-{settings}"

    @property
    def external_path(self) -> Path | None:
        """Path of the external set: the user's own, the phantoms' other laboratory, or None."""
        if self.data["external"]:
            return files_.resolve_path(self.data["external"])
        if self.data["source"] == "phantom" and self.phantom.get("external"):
            return self.cohort_path / "external"
        return None

    @property
    def choices(self) -> Choices:
        """Choices of [data] and [scores]: how this study's patches are to be read."""
        return Choices(
            layout=self.data["layout"],
            score_from=self.data["score_from"],
            patient_from=self.data["patient_from"],
            set_from=self.data["set_from"],
            allow=tuple(str(files_.resolve_path(folder)) for folder in self.data["allow"]),
            score_words={word.lower(): str(score) for word, score in self.scores.items()},
            mpp=self.data["mpp"] or None,
            any_field=self.data["any_field"],
        )

    @property
    def declared_scores(self) -> tuple[int, ...]:
        """The scores of this study as ascending positions in SCORES; all four where none is named.

        Every coefficient, table and figure is over these. Example: (1, 2, 3) for 1+, 2+ and 3+.
        """
        names = self.data["scores"] or SCORES
        return tuple(sorted({SCORES.index(name) for name in names}))

    @property
    def reread_path(self) -> Path | None:
        """Path of a CSV (patch, reread) of scores read again, or None."""
        if not self.data["reread"]:
            return None
        return files_.resolve_path(self.data["reread"])

    @property
    def readings(self) -> list[tuple]:
        """list of (name, bytes, time) of reading sheets saved after they had been handed out."""
        facts = []
        for key in sorted((self.folder / "reading").glob("*/key.csv")):
            handed_out = key.stat().st_mtime_ns  # the key is written after the sheets
            for sheet in sorted(key.parent.glob("*/sheet.csv")):
                if sheet.stat().st_mtime_ns > handed_out:
                    facts += files_.file_facts(sheet)
        return facts

    def folder_of(self, task: str) -> Path:
        """Path runs/<task>: one execution of one notebook."""
        return self.folder / "runs" / task

    # --- runs -----------------------------------------------------------------------------------

    def runs(self) -> list[dict]:
        """list of dict, one per run: its name and the value of every axis, in reading order."""
        first_values = {axis: values[:1] for axis, values in self.axes.items()}
        grids = [self.axes]
        for extra in self.extra_axes:
            grids.append({**first_values, **extra})
        # by name, because a grid of extra_axes may name a run of the first grid again
        runs = {}
        for grid in grids:
            for values in itertools.product(*grid.values()):
                axes = dict(zip(grid, values, strict=True))
                name = _run_name(axes)
                runs[name] = {"run": name, **axes}
        return list(runs.values())

    def run(self, run: str = "") -> dict:
        """dict of one run's axes by name; "" means the first. Raises StudyError for no such run."""
        rows = {row["run"]: row for row in self.runs()}
        if not run:
            return next(iter(rows.values()))
        if run not in rows:
            raise StudyError(f"Study {self.name!r} has no run {run!r}.{did_you_mean(run, rows)}")
        return rows[run]

    def first_run(self, *networks: str) -> str:
        """str, the name of the first run of one of these networks."""
        for row in self.runs():
            if row["network"] in networks:
                return row["run"]
        raise StudyError(
            f"Study {self.name!r} has no run of {' or '.join(networks)}: add it to network under "
            f"[axes] in {self.file.name}."
        )

    def start(self, row: dict) -> str:
        """str, what a run's network starts from: imagenet, none, or the path of a file.

        "study:NAME" among the axes is the same network as trained in that study.
        """
        weights = str(row["weights"])
        if weights in ("imagenet", "none"):
            return weights
        if weights.startswith("study:"):
            other = load_study(weights.removeprefix("study:"))
            file = other.folder_of(_run_like(other, row)) / "model.safetensors"
        else:
            file = files_.resolve_path(weights)
        if not file.is_file():
            raise StudyError(
                f"{row['run']} starts from {weights}, but there is no {file}: run that study "
                "first, or give none or a file."
            )
        return str(file)

    def stands_on(self, row: dict) -> list:
        """list, what a run's result hangs on besides patches and code.

        These are its axes, the changes to its recipe and the file that its network starts from.
        """
        return [row, self.train, *files_.file_facts(Path(self.start(row)))]


# --- reading a study file -----------------------------------------------------------------------


def load_study(name: str | Path) -> Study:
    """Study from a name in studies/ or reports/, or a path of a .toml file; every key is checked.

    Raises StudyError for a file that is not there, is no TOML or has an unknown key; the sentence
    names the nearest right word. Example: load_study("smoke").runs()
    """
    file = _find_file(name)
    return check_study(read_toml(file), file)


def check_study(tables: dict, file: Path) -> Study:
    """Study from a parsed TOML dictionary; a misspelt key is an error that names the right word."""
    tables, sections = checked_tables(tables, file.name)
    sections["data"]["scores"] = _score_names(sections["data"]["scores"], file.name)
    if not re.fullmatch(r"[\w.-]+", file.stem):
        raise StudyError(
            f"{file.name}: name a study with letters, digits, dots, dashes and underscores only."
        )
    study = Study(
        name=file.stem,
        question=str(tables.get("question", "")),
        extra_axes=tuple(tables.get("extra_axes", ())),
        extra_notebooks=tuple(tables.get("extra_notebooks", ())),
        file=file,
        **sections,
    )
    _check_choices(study)
    return study


def study_files() -> list[Path]:
    """list of Path, every study file of the project."""
    files = sorted((files_.ROOT / "studies").glob("*.toml"))
    return [file for file in files if file.stem not in NO_STUDIES]


def made_files() -> list[Path]:
    """list of Path, every study file that `her2 run --data` has made in reports/."""
    files = sorted(files_.REPORTS.glob("*/*.toml"))
    return [file for file in files if file.stem == file.parent.name]


# --- helpers ------------------------------------------------------------------------------------


def _run_name(axes):
    """str, the name of a run and of its folder; official split and true scores are left out."""
    weights = re.sub(r"[^\w]+", "_", Path(str(axes["weights"])).stem)
    parts = [
        axes["network"],
        axes["recipe"],
        weights,
        f"{axes['side_px']}px",
        f"n{100 * axes['n_train']:g}",
        f"s{axes['seed']}",
    ]
    if axes["split"] != "official":
        parts.append(axes["split"])
    if axes["label_shuffle"] != "none":
        parts.append(axes["label_shuffle"])
    return "-".join(parts)


def _run_like(study, row):
    """str, the run of a study that trained row's network at row's side, best with row's seed."""
    alike = [
        run
        for run in study.runs()
        if run["label_shuffle"] == "none"
        and run["network"] == row["network"]
        and run["side_px"] == row["side_px"]
    ]
    same_seed = [run for run in alike if run["seed"] == row["seed"]]
    # without such a run row's own name stands in the sentence about the missing file
    candidates = [*same_seed, *alike, row]
    return candidates[0]["run"]


def _find_file(name):
    """Path of a study file by its path, or by its name in studies/ or, made by --data, reports/."""
    candidates = [
        files_.ROOT / "studies" / f"{name}.toml",
        files_.REPORTS / str(name) / f"{name}.toml",
    ]
    if str(name).endswith(".toml"):
        candidates = [Path(name), files_.ROOT / name]
    for file in candidates:
        if file.is_file():
            return file
    names = [file.stem for file in [*study_files(), *made_files()]]
    raise StudyError(f"There is no study file {str(name)!r}.{did_you_mean(name, names)}")


def _check_choices(study):
    """None; raises for a way of reading that there is none of, and for a word that is no score."""
    for folder in study.data["allow"]:
        if not isinstance(folder, str):
            raise StudyError(
                f"{study.file.name}: allow in [data] is a list of folders, not {folder!r}."
            )
    try:
        words = study.choices.score_words
        for score in words.values():
            parse_score(score)
    except ValueError as error:
        raise StudyError(f"{study.file.name}: {error}") from error


def _score_names(scores, file):
    """list of str, the names of a study's scores; raises for another name, and for one score."""
    names = [str(score) for score in scores]
    for name in names:
        if name not in SCORES:
            raise StudyError(f"{file}: scores in [data] are {', '.join(SCORES)}, not {name!r}.")
    if len(set(names)) == 1:
        raise StudyError(
            f"{file}: scores in [data] names {names[0]} alone, and one score leaves nothing to "
            "tell apart: name two or more, or none for all."
        )
    return names
