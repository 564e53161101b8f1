"""One run of a study from its axes to its folder: the patches it learns from, training, saving."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from her2lib.data import splits
from her2lib.data.patches import Patches
from her2lib.data.reading import Cohort
from her2lib.networks import checkpoint, models, recipes, train
from her2lib.scores import SCORES
from her2lib.stats.calibration import among_scores
from her2lib.study import results
from her2lib.study.cohort import prepare_cohort
from her2lib.study.config import Study
from her2lib.study.fingerprints import code_fingerprint, data_fingerprint


def open_run(study: Study, run: str = "", *, networks: list[str]) -> "TrainingRun":
    """TrainingRun of a study by its name; "" means its first run of one of these networks.

    Nothing is read, built or trained yet. Raises StudyError for a run that the study does not
    have. Example: open_run(load_study("smoke"), networks=["resnet18"]).data()
    """
    axes = study.run(run or study.first_run(*networks))
    return TrainingRun(study, axes["run"], axes, study.folder_of(axes["run"]))


@dataclass(frozen=True)
class TrainingRun:
    """One run of a study: its name, the value of every axis, the folder that it writes."""

    study: Study
    name: str
    axes: dict
    folder: Path

    def data(self) -> "TrainingData":
        """TrainingData of this run, at its side length and under its split."""
        axes = self.axes
        cohort = prepare_cohort(self.study, side_px=axes["side_px"], split=axes["split"])
        table = cohort.table
        subsets = {}
        for subset in ("val", "test", "external"):
            subsets[subset] = cohort.patches.take(np.flatnonzero(table["set"] == subset))

        # whole slides or patients are left out, as they are when sets are made
        taken = splits.take_fraction(table, fraction=axes["n_train"], seed=axes["seed"])
        in_training = (table["set"] == "train") & table["name"].isin(taken["name"])
        subsets["train"] = cohort.patches.take(np.flatnonzero(in_training))
        if axes["label_shuffle"] == "shuffled":
            subsets["train"] = train.shuffle_labels(subsets["train"], seed=axes["seed"])
        return TrainingData(cohort=cohort, **subsets)

    @cached_property
    def net(self) -> models.Net:
        """Net before training, built once; training works on a copy of it."""
        return models.create(
            self.axes["network"],
            side_px=self.axes["side_px"],
            weights=self.study.start(self.axes),
            seed=self.axes["seed"],
        )

    def shape_table(self, data: "TrainingData") -> pd.DataFrame:
        """DataFrame, the shapes of a patch, of what the network makes of it, and its size."""
        # one patch is enough: shapes are those of a patch
        tap = self.net.tap(models.normalise(data.train.images[:1], self.net))
        shapes = {
            "patch": data.train.images.shape[1:],
            "features": tap.features.shape[1:],
            "embedding": tap.embedding.shape[1:],
        }
        rows = {name: " x ".join(map(str, shape)) for name, shape in shapes.items()}
        n_weights = sum(weights.numel() for weights in self.net.parameters())
        declared = self.study.declared_scores
        rows["scores"] = str(len(SCORES))
        if len(declared) < len(SCORES):
            names = ", ".join(SCORES[score] for score in declared)
            rows["scores"] += f", of which this study asks for {names}"
        rows["parameters"] = f"{n_weights / 1e6:.1f} million"
        return pd.Series(rows).to_frame("shape")

    def train(self, data: "TrainingData") -> "FinishedRun":
        """FinishedRun after training, scoring every set once and writing the run's folder.

        An interrupted training goes on where it stopped; run.json is written last.
        """
        axes = self.axes
        # first of all: a network that has learnt is worth what it adds to this
        declared = self.study.declared_scores
        before = among_scores(train.predict(self.net, data.test.images), declared)
        recipe = recipes.recipe(axes["recipe"], network=axes["network"], **self.study.train)
        fit = train.fit(
            self.net,
            data.train,
            data.val,
            seed=axes["seed"],
            folder=self.folder,
            scores=declared,
            **recipe,
        )
        predictions = _predict_sets(fit.net, data, run=self.name, scores=declared)
        checkpoint.save_run(
            self.folder,
            net=fit.net,
            fit=fit,
            predictions=predictions,
            parameters=axes,
            fingerprints={
                "data": data_fingerprint(self.study),
                "code": code_fingerprint("networks.train", "data.store"),
            },
            scores=[SCORES[score] for score in declared],
        )
        record = results.run_record(self.study, self.name)
        return FinishedRun(self.study, data, fit, before, predictions, record)


@dataclass(frozen=True)
class TrainingData:
    """The sets of one run, after n_train and label_shuffle have changed its training patches.

    cohort holds every patch of the study, with the scores as they are.
    """

    train: Patches
    val: Patches
    test: Patches
    external: Patches
    cohort: Cohort

    @property
    def subsets(self) -> dict[str, Patches]:
        """dict set -> Patches: validation, test, external, training."""
        # predictions.csv has always held them in this order, and run.json is written from it
        return {
            "val": self.val,
            "test": self.test,
            "external": self.external,
            "train": self.train,
        }

    def summary(self) -> pd.DataFrame:
        """DataFrame, a row per set: patches, and the fraction that holds its commonest score."""
        n_patches = {}
        commonest = {}
        for subset, patches in self.subsets.items():
            counts = np.bincount(patches.score, minlength=len(SCORES))
            n_patches[subset] = len(patches)
            commonest[subset] = counts.max() / max(len(patches), 1)
        return pd.DataFrame({"patches": n_patches, "commonest score": commonest})


@dataclass(frozen=True)
class FinishedRun:
    """A trained run as it was saved: what it predicted before and after, and its record."""

    study: Study
    data: TrainingData
    fit: train.Fit
    before: np.ndarray  # (N,4) of the test patches
    predictions: pd.DataFrame  # of every set, as in predictions.csv
    record: dict  # run.json

    def recipe_table(self) -> pd.DataFrame:
        """DataFrame, a row per argument of this training: its recipe and the study's changes."""
        return pd.Series(self.fit.recipe).to_frame("recipe")

    def accuracy_table(self) -> pd.DataFrame:
        """DataFrame, a row per set: commonest score, accuracy before (test only) and after."""
        table = self.data.summary()
        after = {name: evaluated["accuracy"] for name, evaluated in self.record["sets"].items()}
        hits = self.before.argmax(1) == np.asarray(self.data.test.score)
        table["before training"] = pd.Series({"test": hits.mean()})
        table["after training"] = pd.Series(after, dtype=float)
        return table

    def cases(self) -> pd.DataFrame:
        """The surest right and wrong test predictions, with caption and path of the image."""
        tested = self.predictions[self.predictions["set"] == "test"]
        cases = results.surest_cases(tested, each=self.study.maps["gallery"] // 2)
        captions = [results.case_caption(row) for row in cases.to_dict("records")]
        paths = self.data.cohort.table.set_index("name")["path"]
        return cases.assign(caption=captions, path=paths[cases["patch"]].to_numpy())


def _predict_sets(net, data, *, run, scores):
    """DataFrame predictions.csv: every patch of every set that has patches, scored once.

    The probabilities are those among the scores that the study declares.
    """
    # a study without an external set has no patches there, and no rows
    tables = []
    for subset, patches in data.subsets.items():
        if len(patches):
            probabilities = among_scores(train.predict(net, patches.images), scores)  # (N,4)
            tables.append(train.prediction_table(probabilities, patches, run=run, subset=subset))
    return pd.concat(tables, ignore_index=True)
