"""What finished runs left behind, as tidy tables: who is compared with whom, and on which patches.

Also the ledger of looks at the external set.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from her2lib.files import make_folder, read_json, write_table
from her2lib.scores import ALL_SCORES, SCORES
from her2lib.stats.calibration import among_scores
from her2lib.stats.intervals import resampling_groups
from her2lib.study.config import Study
from her2lib.study.keys import NETWORKS

MANY = 12  # names; a study of more is a sweep, shown whole by 92_recipes alone
# and every run that was trained on shuffled scores
NULLS = ("always the commonest score", "DAB rule")
PROBABILITIES = [f"p{score}" for score in range(len(SCORES))]
AXIS_NAMES = {
    "recipe": "{}",
    "weights": "{} weights",
    "side_px": "{} px",
    "n_train": "{:.0%} of the training patches",
    "split": "{} split",
}
LEDGER = ["when", "run", "fingerprint", "settings", "look"]


# --- finished runs ------------------------------------------------------------------------------


def run_tables(study: Study, name: str) -> pd.DataFrame:
    """DataFrame of all tables runs/*/<name>.csv of finished runs, one below the other, with run.

    Empty without a finished run. Probabilities are those among the scores that the study declares.
    Example: run_tables(study, "predictions"), or "history".
    """
    tables = []
    for run in _finished_runs(study):
        file = study.folder_of(run["run"]) / f"{name}.csv"
        if file.is_file():
            # a patch or slide may be called "NA": only nan is no number
            table = pd.read_csv(file, keep_default_na=False, na_values=["nan", "NaN"])
            tables.append(table.assign(run=run["run"]))
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    declared = study.declared_scores
    if PROBABILITIES[0] in table and len(declared) < len(SCORES):
        # runs of a study of three scores once wrote what their networks answered of all four
        probabilities = table[PROBABILITIES].to_numpy(float)
        table[PROBABILITIES] = among_scores(probabilities, declared)
    return table


def run_records(study: Study) -> dict[str, dict]:
    """dict run -> run.json of every finished run, in reading order."""
    return {run["run"]: run_record(study, run["run"]) for run in _finished_runs(study)}


def run_record(study: Study, run: str) -> dict:
    """dict, the run.json of one run; empty when there is none."""
    return read_json(study.folder_of(run) / "run.json")


def is_finished(study: Study, run: str) -> bool:
    """bool, whether run.json says that the run is complete."""
    return bool(run_record(study, run).get("complete"))


def run_row(study: Study, run: str) -> dict:
    """dict, one finished run in a row: accuracy by set, fluctuation, verdict."""
    record = run_record(study, run)
    row = {"run": run}
    for subset, evaluated in record["sets"].items():
        row[f"{subset} accuracy"] = evaluated.get("accuracy")
    row["fluctuation"] = record["fluctuation"]
    row["verdict"] = record["verdict"]
    if record["verdict"]:
        row["verdict"] = f"COLLAPSED: {record['verdict']}"
    return row


def runs_of_network(study: Study, network: str) -> pd.DataFrame:
    """DataFrame, run_row of every finished run of one network: its recipes, seeds and sizes."""
    rows = []
    for run in _finished_runs(study):
        if run["network"] == network:
            rows.append(run_row(study, run["run"]))
    return pd.DataFrame(rows)


def _finished_runs(study):
    return [run for run in study.runs() if is_finished(study, run["run"])]


# --- names, and which runs are shown ------------------------------------------------------------


def is_null(name: str) -> bool:
    """bool, whether this is the name of a null and not of a network."""
    return name in NULLS or "shuffled" in name


def display_names(study: Study) -> dict[str, str]:
    """dict run -> the name people read: its network, and the axes that vary; seeds share a name."""
    runs = study.runs()
    varying = [axis for axis in AXIS_NAMES if len({str(run[axis]) for run in runs}) > 1]
    names = {}
    for run in runs:
        parts = [NETWORKS[run["network"]].title]
        parts += [_axis_text(axis, run[axis]) for axis in varying]
        if run["label_shuffle"] == "shuffled":
            parts.append("shuffled scores")
        names[run["run"]] = ", ".join(parts)
    return names


def shown_split(study: Study) -> str:
    """str, the split whose runs are shown together; "" without a finished run.

    09 compares the others: what a run of one split was taught, another is tested on.
    """
    splits = {run["split"] for run in _finished_runs(study)}
    for split in ("official", "grouped", "random"):
        if split in splits:
            return split
    return ""


def shown_runs(study: Study) -> dict[str, str]:
    """dict name -> run: of every name the first finished run that learnt true scores.

    Of a sweep, which has more than MANY names, the first run of every network.
    """
    names = display_names(study)
    split = shown_split(study)
    runs = [
        run
        for run in _finished_runs(study)
        if run["label_shuffle"] == "none" and run["split"] == split
    ]
    is_sweep = len({names[run["run"]] for run in runs}) > MANY
    first: dict[str, str] = {}
    for run in runs:
        kind = names[run["run"]]
        if is_sweep:
            kind = run["network"]
        first.setdefault(kind, run["run"])
    return {names[run]: run for run in first.values()}


def _axis_text(axis, value):
    if axis != "n_train":  # that one is a number, written in per cent
        value = str(value).replace("_", " ")
    return AXIS_NAMES[axis].format(value)


# --- predictions --------------------------------------------------------------------------------


def predictions_with_baselines(
    study: Study, predictions: pd.DataFrame, rule: pd.DataFrame
) -> pd.DataFrame:
    """predictions of the shown runs with a column name, and two nulls as further rows.

    The nulls are the commonest score of the training patches and the DAB rule, whose table has
    the columns name (of the patch) and predicted. Runs that differ by seed share a name.
    """
    split = shown_split(study)
    runs = [run["run"] for run in study.runs() if run["split"] == split]
    named = predictions.assign(name=predictions["run"].map(display_names(study)))
    named = named[named["run"].isin(runs)]
    named = named[named["name"].isin(list(shown_runs(study))) | named["name"].map(is_null)]

    # every run of a split has the same patches, so those of the first stand for all
    first = named[named["run"] == named["run"].iloc[0]]
    train_truth = first.loc[first["set"] == "train", "truth"]
    commonest = np.bincount(train_truth, minlength=len(SCORES)).argmax()
    by_rule = rule.set_index("name")["predicted"].reindex(first["patch"]).to_numpy(int)
    baselines = [
        _as_predictions(first, NULLS[0], np.full(len(first), commonest)),
        _as_predictions(first, NULLS[1], by_rule),
    ]
    return pd.concat([named, *baselines], ignore_index=True)


def surest_cases(predictions: pd.DataFrame, *, each: int) -> pd.DataFrame:
    """The surest right and the surest wrong predictions, `each` of both, with answer and right."""
    probabilities = predictions[PROBABILITIES].to_numpy(float)
    rows = predictions.assign(answer=probabilities.argmax(1), sure=probabilities.max(1))
    rows = rows.assign(right=rows["answer"] == rows["truth"])
    rows = rows.sort_values("sure", ascending=False, kind="stable")
    surest = [rows[rows["right"]].head(each), rows[~rows["right"]].head(each)]
    return pd.concat(surest, ignore_index=True)


def case_caption(row: dict) -> str:
    """str, caption of one prediction: file name, true score, predicted score, confidence."""
    probabilities = np.array([row[column] for column in PROBABILITIES], float)
    predicted = int(probabilities.argmax())
    stem = str(row["patch"])
    if len(stem) > 34:  # wider than a picture of the gallery
        stem = f"{stem[:15]}…{stem[-18:]}"
    true = "?"
    if row["truth"] >= 0:
        true = SCORES[int(row["truth"])]
    percent = 100 * probabilities[predicted]
    return f"{stem}\ntrue {true}, predicted {SCORES[predicted]}, {percent:.0f} % sure"


def _as_predictions(rows, name, predicted):
    """rows of predictions with other names and with probability 1 for predicted (N,)."""
    probabilities = np.eye(len(SCORES))[predicted]  # (N,4)
    columns = dict(zip(PROBABILITIES, probabilities.T, strict=True))
    return rows.assign(name=name, run=name, **columns)


# --- what metrics are computed from -------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """What one network or null says of one set: the input of every metric.

    probabilities is a list of (N,4), one per seed; groups are the ids (N,) that intervals
    resample, sample the word for them, warning a sentence when they are too fine. scores are those
    that the study declares, as positions in SCORES.
    """

    subset: str
    name: str
    truth: np.ndarray
    probabilities: list[np.ndarray]
    patch: np.ndarray
    groups: pd.Series
    sample: str
    warning: str
    scores: tuple[int, ...] = ALL_SCORES


def evaluations(
    predictions: pd.DataFrame, *, scores: tuple[int, ...] = ALL_SCORES
) -> list[Evaluation]:
    """list of Evaluation, one for every set and name of predictions; same patches, same order.

    Patches without a score are left out. scores are those that the study declares. Example:
    evaluations(predictions_with_baselines(study, predictions, rule), scores=study.declared_scores)
    """
    scored = predictions[predictions["truth"] >= 0]
    tables = []
    for (subset, name), rows in scored.groupby(["set", "name"], sort=False):
        runs = [run.sort_values("patch") for _, run in rows.groupby("run", sort=False)]
        first = runs[0]
        # runs of several seeds are sorted alike, so patch i of one is patch i of the others
        groups, sample, warning = resampling_groups(
            first["patient"], first["slide"], first["patch"]
        )
        evaluation = Evaluation(
            subset=subset,
            name=name,
            truth=first["truth"].to_numpy(int),
            probabilities=[run[PROBABILITIES].to_numpy(float) for run in runs],
            patch=first["patch"].to_numpy(),
            groups=groups,
            sample=sample,
            warning=warning,
            scores=scores,
        )
        tables.append(evaluation)
    return tables


@dataclass(frozen=True)
class RatedPatches:
    """Patches that people read: ratings (N,R) with -1 missing, a column for each of names.

    These are the consensus, people and networks; groups are the ids (N,) that intervals resample,
    sample the word for them, warning a sentence when they are too fine. scores are those that the
    study declares and those that people gave besides, as positions in SCORES: a reading of 0 in a
    study of 1+, 2+ and 3+ is a disagreement, and leaving it out would flatter the readers.
    """

    ratings: np.ndarray
    names: list[str]
    people: list[str]
    networks: list[str]
    patch: np.ndarray
    groups: pd.Series
    sample: str
    warning: str
    scores: tuple[int, ...] = ALL_SCORES

    def of(self, names: list[str]) -> np.ndarray:
        """(N,len(names)) the columns of these names."""
        return self.ratings[:, [self.names.index(name) for name in names]]

    def tidy(self) -> pd.DataFrame:
        """DataFrame ratings.csv: patch, rater, reading, score; one row per rating that exists."""
        table = pd.DataFrame(self.ratings, columns=self.names).assign(patch=self.patch, reading=1)
        table = table.melt(["patch", "reading"], var_name="rater", value_name="score")
        return table[table["score"] >= 0][["patch", "rater", "reading", "score"]]


def rated_patches(study: Study, table: pd.DataFrame, predictions: pd.DataFrame) -> RatedPatches:
    """RatedPatches of the test and external patches that a person read, with all shown networks.

    table is a cohort's; its columns rater_* are the people, and its score is the consensus.
    """
    raters = [column for column in table if column.startswith("rater_")]
    unseen = table[table["set"].isin(["test", "external"])]  # a network has learnt the others
    read = unseen.iloc[:0]
    if raters:
        read = unseen[(unseen[raters].fillna(-1) >= 0).any(axis=1)]

    columns = {"consensus": read["score"]}
    for rater in raters:
        columns[rater.removeprefix("rater_")] = read[rater].fillna(-1)
    networks = shown_runs(study)
    for name, run in networks.items():
        predicted = _predicted_scores(predictions[predictions["run"] == run])
        columns[name] = predicted.reindex(read["name"]).fillna(-1).to_numpy()

    groups, sample, warning = resampling_groups(read["patient"], read["slide"], read["name"])
    ratings = np.stack([np.asarray(column, int) for column in columns.values()], axis=1)  # (N,R)
    scores = {*study.declared_scores, *ratings[ratings >= 0].tolist()}
    return RatedPatches(
        ratings=ratings,
        names=list(columns),
        people=[rater.removeprefix("rater_") for rater in raters],
        networks=list(networks),
        patch=read["name"].to_numpy(),
        groups=groups,
        sample=sample,
        warning=warning,
        scores=tuple(sorted(scores)),
    )


def _predicted_scores(predictions):
    """Series patch -> predicted score of one run."""
    rows = predictions.drop_duplicates("patch").set_index("patch")
    predicted = rows[PROBABILITIES].to_numpy(float).argmax(1)
    return pd.Series(predicted, index=rows.index)


# --- the ledger of looks at the external set ----------------------------------------------------


def log_look(
    ledger: Path | str, *, run: str, fingerprint: str, settings: str | dict = ""
) -> tuple[int, str]:
    """(number, sentence) of a look at the external set, kept in a CSV.

    Equal fingerprint (of the data) and settings are the same look again. Every look after the
    first makes the set less of a test, and the sentence says so.
    """
    ledger = Path(ledger)
    if not isinstance(settings, str):
        settings = json.dumps(settings, sort_keys=True, default=str)
    # notebooks run side by side: two looks at once must not lose one
    with FileLock(make_folder(ledger.parent) / f".{ledger.name}.lock"):
        table = pd.DataFrame(columns=LEDGER)
        if ledger.is_file():
            table = pd.read_csv(ledger, dtype=str, keep_default_na=False)
        looks = table[table["run"] == run]
        same = looks[(looks["fingerprint"] == fingerprint) & (looks["settings"] == settings)]
        if len(same):
            number = int(same["look"].iloc[0])
        else:
            number = len(looks) + 1
            now = datetime.now(UTC).isoformat(timespec="seconds")
            table.loc[len(table)] = [now, run, fingerprint, settings, str(number)]
            write_table(ledger, table)
    if number == 1:
        return number, f"{run}: first look at the external set."
    first_day = looks["when"].iloc[0][:10]
    return number, (
        f"{run}: look {number} at the external set (the first on {first_day}), so no fresh test."
    )
