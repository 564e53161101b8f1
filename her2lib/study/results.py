"""What finished runs left behind, as tidy tables, and who is compared with whom; the ledger of looks at the external set."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from her2lib.data.layouts import read_csv
from her2lib.files import make_folder, read_json, write_table
from her2lib.scores import SCORES
from her2lib.stats.intervals import resampling_groups

MANY = 12  # names; a study of more is a sweep, shown whole by 92_recipes alone
NULLS = ("always the commonest score", "DAB rule")  # and every twin trained on shuffled scores
PROBABILITIES = [f"p{score}" for score in range(len(SCORES))]
NETWORKS = {
    "resnet18": "ResNet18",
    "densenet201": "DenseNet-201",
    "vit_b16": "ViT-B/16",
    "vit_tiny": "ViT-Tiny",
    "hybrid": "Hybrid ViT",
}
WORDS = {
    "recipe": "{}",
    "weights": "{} weights",
    "side_px": "{} px",
    "n_train": "{:.0%} of the training patches",
    "split": "{} split",
}


def case_caption(row):
    """str, caption of one predicted patch: file name, true score, predicted score, confidence."""
    probabilities = np.array([row[column] for column in PROBABILITIES], float)
    best = int(probabilities.argmax())
    stem = str(row["patch"])
    stem = stem if len(stem) <= 34 else f"{stem[:15]}…{stem[-18:]}"
    true = SCORES[int(row["truth"])] if row["truth"] >= 0 else "?"
    return f"{stem}\ntrue {true}, predicted {SCORES[best]}, {100 * probabilities[best]:.0f} % sure"


def run_tables(study, name):
    """DataFrame of all tables of that name (predictions, history …) of the study's finished runs, one below the other."""
    frames = []
    for run in study.runs():
        file = study.folder_of(run["run"]) / f"{name}.csv"
        if is_finished(study, run["run"]) and file.is_file():
            frames.append(
                pd.read_csv(file, keep_default_na=False, na_values=["nan", "NaN"]).assign(
                    run=run["run"]
                )
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def run_records(study):
    """dict run -> run.json of every finished run, in reading order."""
    return {
        run["run"]: run_record(study, run["run"])
        for run in study.runs()
        if is_finished(study, run["run"])
    }


def run_record(study, run):
    """dict, the run.json of one run; empty when there is none."""
    return read_json(study.folder_of(run) / "run.json")


def is_finished(study, run):
    """bool, whether run.json says that the run is complete."""
    return bool(run_record(study, run).get("complete"))


def run_row(study, run):
    """dict, one finished run in a row: accuracy by set, fluctuation, verdict."""
    done = run_record(study, run)
    sets = {f"{name} accuracy": found.get("accuracy") for name, found in done["sets"].items()}
    return {
        "run": run,
        **sets,
        "fluctuation": done["fluctuation"],
        "verdict": done["verdict"] and f"COLLAPSED: {done['verdict']}",
    }


def is_null(name):
    """bool, whether a contestant is a null and not a network."""
    return name in NULLS or "shuffled" in name


def display_names(study):
    """dict run -> the name people read: the network and those axes that vary in this study; seeds share a name."""
    runs = study.runs()
    varying = [axis for axis in WORDS if len({str(run[axis]) for run in runs}) > 1]
    names = {}
    for run in runs:
        words = [
            WORDS[axis].format(str(run[axis]).replace("_", " ") if axis != "n_train" else run[axis])
            for axis in varying
        ]
        words += ["shuffled scores"] * (run["label_shuffle"] == "shuffled")
        names[run["run"]] = ", ".join([NETWORKS[run["network"]], *words])
    return names


def shown_split(study):
    """str, the split whose runs are shown together; 09 compares the others, since what one was taught another is tested on."""
    splits = {run["split"] for run in study.runs() if is_finished(study, run["run"])}
    return next((split for split in ("official", "grouped", "random") if split in splits), "")


def shown_runs(study):
    """dict name -> run: the first finished run of every name that is no twin, of a sweep (over MANY names) that of every network."""
    names, first, split = display_names(study), {}, shown_split(study)
    runs = [
        run
        for run in study.runs()
        if run["label_shuffle"] == "none"
        and run["split"] == split
        and is_finished(study, run["run"])
    ]
    many = len({names[run["run"]] for run in runs}) > MANY
    for run in runs:
        first.setdefault(run["network"] if many else names[run["run"]], run["run"])
    return {names[run]: run for run in first.values()}


def predictions_with_baselines(study, predictions, rule):
    """DataFrame of predictions with a column name (seeds share one) and two nulls as further rows: commonest score, DAB rule."""
    own, shown, split = (
        predictions.assign(name=predictions["run"].map(display_names(study))),
        shown_runs(study),
        shown_split(study),
    )
    own = own[own["run"].isin([run["run"] for run in study.runs() if run["split"] == split])]
    own = own[own["name"].isin(shown) | own["name"].map(is_null)]
    first = own[own["run"] == own["run"].iloc[0]]
    commonest = np.bincount(
        first.loc[first["set"] == "train", "truth"], minlength=len(SCORES)
    ).argmax()
    ruled = rule.set_index("name")["predicted"].reindex(first["patch"]).to_numpy(int)
    nulls = [
        first.assign(
            name=name,
            run=name,
            **dict(zip(PROBABILITIES, np.eye(len(SCORES))[answer].T, strict=True)),
        )
        for name, answer in zip(NULLS, (np.full(len(first), commonest), ruled), strict=True)
    ]
    return pd.concat([own, *nulls], ignore_index=True)


@dataclass(frozen=True)
class Evaluation:
    """One contestant on one set: truth (N,), given [(N,4) per seed], patch (N,), groups (Series) and the sentence on them."""

    set: str
    name: str
    truth: np.ndarray
    given: list
    patch: np.ndarray
    groups: object
    unit: str
    warning: str


def evaluations(contestants):
    """list of Side, one for every set and contestant, the patches in the same order for all."""
    found = []
    for (set_, name), rows in contestants[contestants["truth"] >= 0].groupby(
        ["set", "name"], sort=False
    ):
        runs = [part.sort_values("patch") for _, part in rows.groupby("run", sort=False)]
        first = runs[0]
        groups, unit, warning = resampling_groups(first["patient"], first["slide"], first["patch"])
        given = [part[PROBABILITIES].to_numpy(float) for part in runs]
        found.append(
            Evaluation(
                set_,
                name,
                first["truth"].to_numpy(int),
                given,
                first["patch"].to_numpy(),
                groups,
                unit,
                warning,
            )
        )
    return found


@dataclass(frozen=True)
class RatedPatches:
    """Patches that people read: ratings (N,R) with -1 missing; names of its columns: consensus, people, networks; groups (Series)."""

    ratings: np.ndarray
    names: list
    people: list
    networks: list
    patch: np.ndarray
    groups: object
    unit: str
    warning: str

    def of(self, names):
        """(N,len(names)) the columns of these names."""
        return self.ratings[:, [self.names.index(name) for name in names]]

    def tidy(self):
        """DataFrame ratings.csv: patch, rater, reading, score; one row per rating that was given."""
        table = pd.DataFrame(self.ratings, columns=self.names).assign(patch=self.patch, reading=1)
        table = table.melt(["patch", "reading"], var_name="rater", value_name="score")
        return table[table["score"] >= 0][["patch", "rater", "reading", "score"]]


def rated_patches(study, table, predictions):
    """Rated, the test and external patches that a person read, with the given consensus and every shown network as further columns."""
    people = [column for column in table if column.startswith("rater_")]
    table = table[table["set"].isin(["test", "external"])]  # a network has learnt the others
    read = table[(table[people].fillna(-1) >= 0).any(axis=1)] if people else table.iloc[:0]
    columns = {
        "consensus": read["score"],
        **{column.removeprefix("rater_"): read[column].fillna(-1) for column in people},
    }
    networks = shown_runs(study)
    for name, run in networks.items():
        own = (
            predictions[predictions["run"] == run]
            .drop_duplicates("patch")
            .set_index("patch")[PROBABILITIES]
        )
        answers = pd.Series(own.to_numpy(float).argmax(1), index=own.index)
        columns[name] = answers.reindex(read["name"]).fillna(-1).to_numpy()
    groups, unit, warning = resampling_groups(read["patient"], read["slide"], read["name"])
    ratings = np.stack([np.asarray(column, int) for column in columns.values()], axis=1)  # (N,R)
    return RatedPatches(
        ratings,
        list(columns),
        [c.removeprefix("rater_") for c in people],
        list(networks),
        read["name"].to_numpy(),
        groups,
        unit,
        warning,
    )


def surest_cases(predictions, *, each):
    """DataFrame of the surest right and the surest wrong patches, `each` of both, with answer and right."""
    probabilities = predictions[PROBABILITIES].to_numpy(float)
    rows = predictions.assign(answer=probabilities.argmax(1), sure=probabilities.max(1))
    rows = rows.assign(right=rows["answer"] == rows["truth"]).sort_values(
        "sure", ascending=False, kind="stable"
    )
    return pd.concat(
        [rows[rows["right"]].head(each), rows[~rows["right"]].head(each)], ignore_index=True
    )


LEDGER = ["when", "run", "fingerprint", "settings", "look"]


def log_look(ledger, *, run, fingerprint, settings=""):
    """(number, sentence) of a look at the external set, kept in a CSV; equal fingerprint and settings are the same look."""
    settings = (
        settings if isinstance(settings, str) else json.dumps(settings, sort_keys=True, default=str)
    )
    ledger = Path(ledger)
    with FileLock(
        make_folder(ledger.parent) / f".{ledger.name}.lock"
    ):  # notebooks run side by side: two looks at once must not lose one
        table = read_csv(ledger) if ledger.is_file() else pd.DataFrame(columns=LEDGER)
        mine = table[table.run == run]
        same = mine[(mine.fingerprint == fingerprint) & (mine.settings == settings)]
        number = int(same.look.iloc[0]) if len(same) else len(mine) + 1
        if not len(same):
            table.loc[len(table)] = [
                datetime.now(UTC).isoformat(timespec="seconds"),
                run,
                fingerprint,
                settings,
                str(number),
            ]
            write_table(ledger, table)
    return number, (
        f"{run}: first look at the external set."
        if number == 1
        else f"{run}: look {number} at the external set (the first on {mine.when.iloc[0][:10]}), so no fresh test."
    )
