"""One short training loop: fit and predict; resumable, the same by seed, judged every epoch."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from her2lib.files import source_fingerprint
from her2lib.networks import augment, checkpoint, collapse, models, recipes
from her2lib.networks.learner import Learner, choose_arithmetic

# What decides a training; the rest of the library does not.
CODE = (
    "networks.train",
    "networks.learner",
    "networks.checkpoint",
    "networks.augment",
    "networks.models",
    "networks.weights",
    "networks.recipes",
    "networks.collapse",
    "stain",
)
# Row 0 of the history measures at most so many training patches.
SAMPLE = 512
# Batch of every measurement.
BATCH = 64


class ScoredPatches(models.HasImages, Protocol):
    """Patches as training needs them."""

    @property
    def score(self) -> np.ndarray:
        """(N,) int, 0 to 3."""

    @property
    def name(self) -> np.ndarray:
        """(N,) str."""


@dataclass(frozen=True)
class Fit:
    """A trained network and how it came about."""

    net: models.Net
    history: pd.DataFrame  # one row an epoch, row 0 before training
    recipe: dict[str, Any]
    seed: int
    kept_epoch: int
    device: str
    precision: str
    notes: tuple[str, ...]
    seconds: float  # over all calls, when it was interrupted
    peak_bytes: int  # of the GPU; 0 on a CPU
    # What was trained, on what, from where: the same stamp is not trained again.
    stamp: str


# --- the doors ---------------------------------------------------------------------------------


def fit(
    net: models.Net,
    train_patches: ScoredPatches,
    val_patches: ScoredPatches | None = None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    tensorboard: str | Path | None = None,
    recipe: str | None = None,
    scores: Sequence[int] | None = None,
    **changes: Any,
) -> Fit:
    """Fit of a copy of net; the net that was given is left alone.

    scores: those among which net's answers are measured, as positions in SCORES (None: all).
    recipe: a name such as "tuned" (recipes.recipe); changes: keys of a recipe, which differ from it
    or, without a name, from recipes.DEFAULTS. folder: the same call goes on there from the last
    checkpoint after any interruption. ValueError for an unknown recipe or key, patches without
    a score or of another side than the network, and a folder of another training.
    Example: fit(net, train, val, recipe="tuned", epochs=5).
    """
    settings = _complete_settings(net, recipe, changes)
    device = torch.device(device or recipes.choose_device())
    _refuse_unfit(net, train_patches, val_patches)
    training = _Training(net, train_patches, val_patches, settings, seed, device, scores)
    stamp = _training_stamp(net, train_patches, val_patches, settings, seed)
    keeper = checkpoint.Keeper(folder, stamp)
    training.restore(keeper)
    with (
        _progress_bar(training, progress) as bar,
        _summary_writer(tensorboard) as writer,
        augment.preserve_rng_state(),
    ):
        while not training.finished():
            training.run_epoch(bar)
            training.save(keeper)
            _show_epoch(bar, training)
            _log_epoch(writer, training.state.rows[-1])
    return training.result(stamp)


# her2.train: the door of the house names the deed, this module the result.
train = fit


def predict(
    net: models.Net,
    images: torch.Tensor | np.ndarray | models.HasImages,
    *,
    batch: int = BATCH,
) -> np.ndarray:
    """(N,scores) float32 probabilities, in float32 arithmetic, on the device where net lies.

    images: (N,3,H,W) uint8 tensor or array, or patches. ValueError for normalised or float images,
    and for another side than net was created for. Example: predict(fit.net, test).argmax(1).
    """
    pixels = models.uint8_images(images)
    models.refuse_other_side(net, pixels)
    device = next(net.parameters()).device
    return _logits(net, pixels, batch, device).softmax(1).numpy()


def prediction_table(
    probabilities: np.ndarray, patches: Any, *, run: str, subset: str
) -> pd.DataFrame:
    """DataFrame, a row a patch: run, set, patch, slide, patient, truth (-1 unknown), p0..p3."""
    columns = {
        "run": run,
        "set": subset,
        "patch": list(patches.name),
        "slide": list(patches.slide),
        "patient": list(patches.patient),
        "truth": list(patches.score),
    }
    for score, column in enumerate(probabilities.T):
        columns[f"p{score}"] = column
    return pd.DataFrame(columns)


def shuffle_labels(patches, *, seed: int):
    """Patches that can teach nothing: the same images with their scores permuted."""
    order = np.random.default_rng(seed).permutation(len(patches.score))
    return replace(patches, score=patches.score[order])


# --- one training ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """What one pass over patches says; without patches nothing."""

    loss: float = math.nan
    accuracy: float = math.nan
    kappa: float = math.nan
    verdict: str = ""
    finite: bool = True  # whether all logits were finite numbers

    def columns(self, subset):
        """dict of the columns of history."""
        return {
            f"{subset}_loss": self.loss,
            f"{subset}_accuracy": self.accuracy,
            f"{subset}_kappa": self.kappa,
        }


class _Training:
    """One training under way: patches, the learner, and the state that a resumed run takes up."""

    def __init__(self, net, train, val, settings, seed, device, scores):
        self.train = train
        self.val = val
        self.scores = scores
        self.settings = settings
        self.seed = seed
        self.device = device
        self.arithmetic = choose_arithmetic(device, settings["precision"])
        copy = recipes.regularised(net, settings)
        copy = copy.to(device, memory_format=self.arithmetic.layout)
        self.images, where = augment.to_device(train.images, device)
        self.score = _score_tensor(train)
        self.steps = len(self._epoch_batches(1))
        self.learner = Learner(copy, settings, self.score, self.steps, self.arithmetic)
        self.state = checkpoint.TrainingState()
        self.notes = [f"precision {self.arithmetic.reason}", where]
        if not _has_patches(val):
            self.notes.append("no validation patches: those columns are empty")

    def finished(self):
        """bool: all epochs done, the loss broken, or no better validation kappa for `patience`."""
        rows = self.state.rows
        if not rows:
            return False
        done = len(rows) - 1
        if done >= self.settings["epochs"] or not rows[-1]["loss_finite"]:
            return True
        patience = self.settings["patience"]
        if not patience or not done:
            return False
        return done - _best_epoch(rows) >= patience

    def run_epoch(self, bar):
        """None; one row more of history, and the weights if these are to be kept."""
        started = time.perf_counter()
        epoch = len(self.state.rows)
        augment.seed_global_rngs(self.seed, epoch)
        if epoch:
            train = self._train_epoch(epoch, bar)
        else:
            train = self._measure_sample()
        train_seconds = time.perf_counter() - started
        val = self._measure_validation()
        finite = self._loss_finite(epoch, train, val)
        row = {"epoch": epoch, "lr": 0.0, **train.columns("train"), **val.columns("val")}
        if epoch:
            row["lr"] = self.learner.rate()
        row["train_seconds"] = train_seconds
        row["seconds"] = time.perf_counter() - started
        row["loss_finite"] = finite
        row["verdict"] = _verdict(epoch, finite, val)
        self.state.rows.append(row)
        self._keep_weights()

    def restore(self, keeper):
        """None; what an interrupted or finished training left behind is taken up again."""
        note = keeper.restore(self.state, self.learner.parts(), self.device)
        if note:
            self.notes.append(note)

    def save(self, keeper):
        """None; a checkpoint when it is due, and how far the training is."""
        keeper.save(self.state, self.learner.parts(), finished=self.finished())
        keeper.write_progress(self.state.rows, self.settings["epochs"])

    def result(self, stamp):
        """Fit with the kept weights, its network back on the CPU, ready to predict."""
        net = self.learner.net
        net.load_state_dict(self.state.weights)
        net = net.to("cpu", memory_format=torch.contiguous_format).eval()
        history = pd.DataFrame(self.state.rows)
        peak_bytes = 0
        if self.device.type == "cuda":
            peak_bytes = torch.cuda.max_memory_allocated(self.device)
        return Fit(
            net=net,
            history=history,
            recipe=self.settings,
            seed=self.seed,
            kept_epoch=self.state.kept_epoch,
            device=str(self.device),
            precision=str(self.arithmetic.dtype).removeprefix("torch."),
            notes=tuple(self.notes),
            seconds=float(history.seconds.sum()),
            peak_bytes=peak_bytes,
            stamp=stamp,
        )

    # --- the steps of an epoch ---

    def _epoch_batches(self, epoch):
        """list of index tensors, the batches of one epoch; even ones for mixup."""
        balanced = self.settings["balanced"]
        rows = augment.epoch_order(self.score, seed=self.seed, epoch=epoch, balanced=balanced)
        return augment.cut_batches(rows, self.settings["batch"], even=self.settings["mixup"] > 0)

    def _train_epoch(self, epoch, bar):
        """_Measured of the batches as trained on: augmented, and while the weights moved."""
        self.learner.net.train()
        losses = []
        predicted = []
        parts = self._epoch_batches(epoch)
        for step, images in enumerate(augment.batches(self.images, parts, self.device)):
            images = augment.augment(
                images,
                seed=self.seed,
                epoch=epoch,
                step=step,
                flips=self.settings["flips"],
                stain=self.settings["stain"],
            )
            score = self.score[parts[step]].to(self.device)
            n_updates = (epoch - 1) * self.steps + step + 1
            loss, logits = self.learner.update(images, score, n_updates)
            losses.append(loss * len(images))
            predicted.append(_among(logits, self.scores).argmax(1))
            bar.update()
        rows = torch.cat(parts)
        loss = float(torch.stack(losses).sum()) / len(rows)
        agreement = collapse.accuracy_and_kappa(torch.cat(predicted).cpu(), self.score[rows])
        return _Measured(loss, *agreement)

    def _measure_sample(self):
        """_Measured of every so many-th training patch, as validation measures."""
        every = math.ceil(len(self.score) / SAMPLE)
        rows = torch.arange(len(self.score))[::every]
        images = self.train.images[rows]
        return _measure(self.learner.averaged(), images, self.score[rows], self.scores)

    def _measure_validation(self):
        if not _has_patches(self.val):
            return _Measured()
        score = _score_tensor(self.val)
        return _measure(self.learner.averaged(), self.val.images, score, self.scores)

    def _loss_finite(self, epoch, train, val):
        """bool: loss, weights and, once trained, the logits of validation are finite numbers."""
        if not math.isfinite(train.loss) or not self.learner.finite():
            return False
        return epoch == 0 or val.finite

    def _keep_weights(self):
        """None; the weights of this epoch become those to hand back, if these are the ones."""
        rows = self.state.rows
        epoch = len(rows) - 1
        if not rows[-1]["loss_finite"]:
            return
        if self.settings["keep"] == "best" and _best_epoch(rows) != epoch:
            return
        weights = self.learner.averaged().state_dict()
        self.state.weights = {name: value.detach().clone() for name, value in weights.items()}
        self.state.kept_epoch = epoch


# --- measuring ---------------------------------------------------------------------------------


def _measure(net, images, score, scores):
    """_Measured (cross entropy, accuracy, kappa, verdict) in float32, as predict does it.

    scores: those among which answers are judged; the cross entropy is of all, as it is trained.
    """
    logits = _logits(net, images, BATCH, next(net.parameters()).device)
    if not logits.isfinite().all():
        return _Measured(verdict=collapse.LOSS_NOT_FINITE, finite=False)
    judged = _among(logits, scores)
    verdict = collapse.collapse_reason(judged.softmax(1).numpy(), score)
    agreement = collapse.accuracy_and_kappa(judged.argmax(1), score)
    return _Measured(float(F.cross_entropy(logits, score)), *agreement, verdict)


def _among(logits, scores):
    """(N,4) logits, -inf at every score that is not asked for; as they are where scores is None."""
    if scores is None:
        return logits
    asked = torch.full_like(logits, -torch.inf)
    asked[:, list(scores)] = logits.detach()[:, list(scores)]
    return asked


@torch.inference_mode()
def _logits(net, images, batch, device):
    """(N,scores) float32 logits on the CPU; a network in training goes back to it."""
    training = net.training
    parts = torch.arange(len(images)).split(batch)
    net = net.to(device).eval()
    try:
        logits = [
            net(models.normalise(x, net)).cpu() for x in augment.batches(images, parts, device)
        ]
        return torch.cat(logits)
    finally:
        net.train(training)


def _best_epoch(rows):
    """int, the epoch with the highest validation kappa after the start; the last without kappas."""
    kappas = [row["val_kappa"] for row in rows[1:]]
    if all(math.isnan(kappa) for kappa in kappas):
        return len(rows) - 1
    return 1 + int(np.nanargmax(kappas))


def _verdict(epoch, finite, val):
    """str of the column verdict; a network before its training is not judged."""
    if not finite:
        return collapse.LOSS_NOT_FINITE
    if epoch == 0:
        return ""
    return val.verdict


# --- before and around the loop ----------------------------------------------------------------


def _complete_settings(net, recipe, changes):
    """dict of every key of a recipe, from a name and changes, or from changes alone."""
    if recipe is None:
        return recipes.complete_recipe(changes)
    if not isinstance(recipe, str):
        raise ValueError(
            'recipe= takes a name, such as "tuned"; '
            "a dictionary of settings is given as **settings."
        )
    return recipes.recipe(recipe, network=net.network, **changes)


def _has_patches(patches):
    return patches is not None and len(patches.score) > 0


def _score_tensor(patches):
    return torch.tensor(np.array(patches.score), dtype=torch.int64)


def _refuse_unfit(net, *cohorts):
    """None; ValueError for patches without a score or of another side than the network."""
    for patches in filter(_has_patches, cohorts):
        n_missing = int((np.asarray(patches.score) < 0).sum())
        if n_missing:
            raise ValueError(
                f"{n_missing} of {len(patches.score)} patches have no score: "
                "leave them out of training and validation."
            )
        models.refuse_other_side(net, patches.images)


def _training_stamp(net, train, val, settings, seed):
    """str, what a training is: recipe, seed, code, patches (every 64th image), starting weights."""
    facts = [settings, seed, net.config, source_fingerprint(*CODE)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for patches in filter(_has_patches, (train, val)):
        labels = [list(map(str, patches.name)), np.asarray(patches.score).tolist()]
        digest.update(json.dumps(labels).encode())
        digest.update(patches.images[::64].contiguous().numpy())
    for value in net.state_dict().values():
        digest.update(value.cpu().contiguous().numpy())
    return digest.hexdigest()


# --- whoever watches ---------------------------------------------------------------------------


def _progress_bar(training, progress):
    """tqdm over every update of the run, with what was chosen and why written above it."""
    if progress:
        for note in training.notes:
            tqdm.write(note)
    done = max(len(training.state.rows) - 1, 0)
    return tqdm(
        total=training.settings["epochs"] * training.steps,
        initial=done * training.steps,
        desc=training.learner.net.network,
        unit="step",
        disable=not progress,
    )


def _show_epoch(bar, training):
    """None; the bar says the epoch, its validation kappa and whether the network collapsed."""
    row = training.state.rows[-1]
    epochs = training.settings["epochs"]
    text = f"epoch {row['epoch']}/{epochs}, validation kappa {row['val_kappa']:.3f}"
    if row["verdict"]:
        text += f", COLLAPSED: {row['verdict']}"
    bar.set_postfix_str(text)


def _summary_writer(folder) -> AbstractContextManager:
    """SummaryWriter of a TensorBoard folder; nothing without one."""
    if folder is None:
        return nullcontext()
    # 1.6 s to import, so only when asked.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


def _log_epoch(writer, row):
    """None; every number of an epoch goes to TensorBoard."""
    if writer is None:
        return
    for name in row.keys() - {"epoch", "loss_finite", "verdict"}:
        writer.add_scalar(name, row[name], row["epoch"])
