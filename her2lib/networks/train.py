"""One short training loop: fit and predict; resumable, deterministic by seed, with a verdict on every run."""

import hashlib
import json
import math
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from timm.utils import ModelEmaV3
from torch.nn import functional as F
from tqdm.auto import tqdm

from her2lib.files import (
    source_fingerprint,
    write_json,
)
from her2lib.networks import augment, checkpoint, collapse, models, recipes
from her2lib.networks.recipes import choose_device, choose_precision

# what decides a training; the rest of the library does not
CODE = (
    "networks.train",
    "networks.checkpoint",
    "networks.augment",
    "networks.models",
    "networks.recipes",
    "stain",
)
EVERY_SECONDS = 30  # one of a tuned ViT-B/16 is 1.7 GB, so not after every short epoch


@dataclass(frozen=True)
class Fit:
    """A trained network and how it came about: history has one row per epoch, row 0 before training."""

    net: models.Net
    history: pd.DataFrame
    recipe: dict
    seed: int
    kept_epoch: int
    device: str
    precision: str
    notes: tuple
    seconds: float
    peak_bytes: int  # of the GPU; 0 on a CPU
    stamp: str  # what was trained, on what, from where: the same stamp is not trained again


def fit(
    net,
    train_patches,
    val_patches=None,
    *,
    seed,
    folder=None,
    progress=True,
    device=None,
    tensorboard=None,
    **recipe,
):
    """Fit of a copy of net; with a folder, the same call goes on from the last finished epoch after any interruption."""
    settings, device = recipes.complete_recipe(recipe), device or choose_device()
    _refuse_unknown(train_patches, val_patches)
    loop = _Loop(net, train_patches, val_patches, settings, seed, device, folder)
    loop.restore()
    with loop.bar(progress) as bar, _writer(tensorboard) as writer, augment.preserve_rng_state():
        while not loop.finished():
            loop.epoch(bar)
            _log(writer, loop.rows[-1])
    net, history = loop.result(), pd.DataFrame(loop.rows)
    peak = torch.cuda.max_memory_allocated(device) if torch.device(device).type == "cuda" else 0
    seconds = float(history.seconds.sum())  # over all calls, when it was interrupted
    ran = (str(device), str(loop.dtype)[6:], tuple(loop.notes), seconds, peak)
    return Fit(net, history, settings, seed, loop.kept_epoch, *ran, loop.stamp)


def predict(net, images, *, batch=64):
    """(N,scores) float32 probabilities of (N,3,H,W) uint8 images, in float32 arithmetic on every device."""
    return _logits(net, images, batch, next(net.parameters()).device).softmax(1).numpy()


def prediction_table(probabilities, patches, *, run, subset):
    """DataFrame of predictions: run, set, patch, slide, patient, truth (-1 unknown), p0..p3; one row per patch."""
    words = dict(
        patch=list(patches.name),
        slide=list(patches.slide),
        patient=list(patches.patient),
        truth=list(patches.score),
    )
    shares = {f"p{k}": column for k, column in enumerate(probabilities.T)}
    return pd.DataFrame({"run": run, "set": subset, **words, **shares})


def shuffle_labels(patches, *, seed):
    """Patches, the twin that can teach nothing: the same images with their scores permuted."""
    turn = np.random.default_rng(seed).permutation(len(patches.score))
    return replace(patches, score=patches.score[turn])


class _Loop:
    """One training under way; everything a resumed run needs is in rows, weights, optimizer, EMA and the kept weights."""

    def __init__(self, net, train, val, settings, seed, device, folder):
        self.settings, self.seed, self.device, self.train, self.val = (
            settings,
            seed,
            torch.device(device),
            train,
            val,
        )
        self.path = Path(folder) / checkpoint.CHECKPOINT if folder else None
        self.stamp = _stamp(net, train, val, settings, seed)
        self.dtype, reason = choose_precision(device, settings["precision"])
        fast = (
            self.dtype == torch.bfloat16 or self.device.type == "cuda"
        )  # on a CPU 37 against 27 patches/s; in float32 16 to 17
        self.layout = torch.channels_last if fast else torch.contiguous_format
        self.net = recipes.regularised(net, settings).to(self.device, memory_format=self.layout)
        self.images, where = augment.to_device(train.images, device)
        self.notes = [f"precision {reason}", where] + (
            [] if _count(val) else ["no validation patches: those columns are empty"]
        )
        self.forward = torch.compile(self.net) if settings["compile"] else self.net
        self.ema = (
            ModelEmaV3(self.net, decay=settings["ema"], use_warmup=True)
            if settings["ema"]
            else None
        )
        self.score = torch.tensor(np.array(train.score), dtype=torch.int64)
        self.steps = len(self.parts(1))
        self.optimizer, self.schedule = recipes.optimizer(self.net, settings, self.steps)
        self.criterion = recipes.criterion(settings, self.score, net.config["scores"], self.device)
        self.mix = augment.mixer(settings["mixup"], net.config["scores"])
        self.rows, self.kept, self.kept_epoch, self.saved = [], None, 0, time.perf_counter()

    def parts(self, epoch):
        rows = augment.epoch_order(
            self.score, seed=self.seed, epoch=epoch, balanced=self.settings["balanced"]
        )
        return augment.cut_batches(rows, self.settings["batch"], even=self.settings["mixup"] > 0)

    def bar(self, progress):
        """tqdm over every update of the run, with what was chosen and why written above it."""
        for note in self.notes if progress else ():
            tqdm.write(note)
        total, done = self.settings["epochs"] * self.steps, max(len(self.rows) - 1, 0) * self.steps
        return tqdm(
            total=total, initial=done, desc=self.net.network, unit="step", disable=not progress
        )

    def finished(self):
        """bool: every epoch done, the loss broken, or no better validation kappa for `patience` epochs."""
        done, patience = len(self.rows) - 1, self.settings["patience"]
        broken = bool(self.rows) and "finite" in self.rows[-1]["verdict"]
        return (
            broken
            or done >= self.settings["epochs"]
            or bool(patience and done > 0 and done - _best(self.rows) >= patience)
        )

    def epoch(self, bar):
        """One row more; row 0 is the network as it came, measured on at most 512 training patches."""
        began, epoch = time.perf_counter(), len(self.rows)
        augment.seed_global_rngs(self.seed, epoch)
        few = torch.arange(len(self.score))[:: math.ceil(len(self.score) / 512)]
        train = self.pass_over(epoch, bar) if epoch else self.measure(self.train, few)
        spent = time.perf_counter() - began
        val = self.measure(self.val) if _count(self.val) else (math.nan, math.nan, math.nan, "")
        sound = math.isfinite(train[0]) and all(
            weights.isfinite().all() for weights in self.net.parameters()
        )
        verdict = val[3] * (epoch > 0) if sound else "loss not finite"
        lr = max(group["lr"] for group in self.optimizer.param_groups) * (epoch > 0)
        row = dict(
            epoch=epoch, lr=lr, **_named("train", train), **_named("val", val), train_seconds=spent
        )
        self.rows.append(row | dict(seconds=time.perf_counter() - began, verdict=verdict))
        self.keep()
        self.tell()
        mark = f", COLLAPSED: {verdict}" if verdict else ""
        bar.set_postfix_str(
            f"epoch {epoch}/{self.settings['epochs']}, validation kappa {val[2]:.3f}{mark}"
        )

    def pass_over(self, epoch, bar):
        """(loss, accuracy, kappa, "") of the batches as they were trained on: augmented, and while the weights moved."""
        self.net.train()
        losses, answers, parts = [], [], self.parts(epoch)
        for step, images in enumerate(augment.batches(self.images, parts, self.device)):
            loss, logits = self.step(images, self.score[parts[step]].to(self.device), epoch, step)
            losses.append(loss * len(images))
            answers.append(logits.argmax(1))
            bar.update()
        rows = torch.cat(parts)
        return (
            float(torch.stack(losses).sum()) / len(rows),
            *collapse.accuracy_and_kappa(torch.cat(answers).cpu(), self.score[rows]),
            "",
        )

    def step(self, images, score, epoch, step):
        """(loss, logits) of one update."""
        settings = self.settings
        images = augment.augment(
            images,
            seed=self.seed,
            epoch=epoch,
            step=step,
            flips=settings["flips"],
            stain=settings["stain"],
        )
        x, shares = self.mix(
            models.normalise(images, self.net).contiguous(memory_format=self.layout), score
        )
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype == torch.bfloat16):
            logits = self.forward(x).float()
        loss = self.criterion(logits, shares)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings["clip"]:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), settings["clip"])
        done = (epoch - 1) * self.steps + step + 1
        self.schedule.step_update(done)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.net, step=done)
        return loss.detach(), logits.detach()

    def measure(self, patches, rows=slice(None)):
        """(cross entropy, accuracy, kappa, verdict) of the network that would be kept, in float32 as predict does it."""
        score = torch.tensor(np.array(patches.score), dtype=torch.int64)[rows]
        logits = _logits(
            self.ema.module if self.ema else self.net, patches.images[rows], 64, self.device
        )
        if not logits.isfinite().all():
            return math.nan, math.nan, math.nan, "loss not finite"
        verdict = collapse.collapse_reason(logits.softmax(1).numpy(), score)
        return (
            float(F.cross_entropy(logits, score)),
            *collapse.accuracy_and_kappa(logits.argmax(1), score),
            verdict,
        )

    def keep(self):
        """The weights to hand back, if these are the ones, and now and then a checkpoint: a kill costs what came after it."""
        finite = "finite" not in self.rows[-1]["verdict"]
        if finite and (self.settings["keep"] == "last" or _best(self.rows) == len(self.rows) - 1):
            source = self.ema.module if self.ema else self.net
            self.kept, self.kept_epoch = (
                {k: v.detach().clone() for k, v in source.state_dict().items()},
                len(self.rows) - 1,
            )
        if self.path and (self.finished() or time.perf_counter() - self.saved > EVERY_SECONDS):
            self.saved = time.perf_counter()
            parts = dict(
                net=self.net,
                optimizer=self.optimizer,
                **({"ema": self.ema.module} if self.ema else {}),
            )
            state = dict(
                stamp=self.stamp, rows=self.rows, kept=self.kept, kept_epoch=self.kept_epoch
            )
            state |= {name: part.state_dict() for name, part in parts.items()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                state, partial := self.path.with_name(checkpoint.CHECKPOINT + ".part")
            )  # one name, so kills leave no heap
            os.replace(partial, self.path)

    def tell(self):
        """None; progress.json for whoever watches from outside: epoch, validation kappa, seconds left."""
        if self.path:
            done, left = len(self.rows) - 1, self.settings["epochs"] - len(self.rows) + 1
            pace = sum(row["seconds"] for row in self.rows[1:]) / max(done, 1)
            kappa = self.rows[-1]["val_kappa"]
            told = dict(
                kappa=None if math.isnan(kappa) else round(kappa, 4),
                seconds_left=round(left * pace, 1) if done else None,
            )
            write_json(
                self.path.with_name(checkpoint.PROGRESS),
                dict(epoch=done, epochs=self.settings["epochs"], **told),
            )

    def restore(self):
        if self.path and not self.path.exists():
            return self.take_finished()
        if not self.path:
            return
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        if state["stamp"] != self.stamp:
            raise ValueError(
                f"{self.path} belongs to another training (other patches, recipe, seed, code or starting weights): "
                "delete it (her2 run --force does) or give another folder."
            )
        self.rows, self.kept, self.kept_epoch = state["rows"], state["kept"], state["kept_epoch"]
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.notes.append(f"taken up again after epoch {len(self.rows) - 1}")

    def take_finished(self):
        """None; a notebook that runs again after its training was finished takes the weights that were kept then."""
        file = self.path.with_name(checkpoint.MODEL)
        if not file.is_file():
            return
        with safe_open(file, "pt") as held:
            said = held.metadata() or {}
            if (
                said.get("stamp") == self.stamp
            ):  # else the study asks for another training: this one is overwritten
                self.rows, self.kept_epoch = json.loads(said["rows"]), int(said["kept_epoch"])
                self.kept = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118, safe_open is no dictionary
                self.notes.append("not trained again: this very training was finished before")

    def result(self):
        """Net with the kept weights, back on the CPU, ready to predict."""
        self.net.load_state_dict(self.kept)
        return self.net.to("cpu", memory_format=torch.contiguous_format).eval()


def _refuse_unknown(*cohorts):
    for patches in filter(_count, cohorts):
        if missing := int((np.asarray(patches.score) < 0).sum()):
            raise ValueError(
                f"{missing} of {_count(patches)} patches have no score: leave them out of training and validation."
            )


def _count(patches):
    return 0 if patches is None else len(patches.score)


@torch.inference_mode()
def _logits(net, images, batch, device):
    training, parts = net.training, torch.arange(len(images)).split(batch)
    net = net.to(device).eval()
    try:
        return torch.cat(
            [net(models.normalise(x, net)).cpu() for x in augment.batches(images, parts, device)]
        )
    finally:
        net.train(training)


def _named(name, numbers):
    return {f"{name}_loss": numbers[0], f"{name}_accuracy": numbers[1], f"{name}_kappa": numbers[2]}


def _best(rows):
    """int, the epoch after the start with the highest validation kappa; the last one when there is no kappa."""
    kappas = [row["val_kappa"] for row in rows[1:]]
    return (
        len(rows) - 1
        if not kappas or all(map(math.isnan, kappas))
        else 1 + int(np.nanargmax(kappas))
    )


def _stamp(net, train, val, settings, seed):
    """str, what a training is: recipe, seed, code, patches (every 64th image), starting weights."""
    digest = hashlib.sha256(
        json.dumps(
            [settings, seed, net.config, source_fingerprint(*CODE)], sort_keys=True, default=str
        ).encode()
    )
    for patches in filter(_count, (train, val)):
        digest.update(
            json.dumps([list(map(str, patches.name)), np.asarray(patches.score).tolist()]).encode()
        )
        digest.update(patches.images[::64].contiguous().numpy())
    for value in net.state_dict().values():
        digest.update(value.cpu().contiguous().numpy())
    return digest.hexdigest()


def _writer(folder):
    """SummaryWriter of a TensorBoard folder; nothing without one."""
    if folder is None:
        return nullcontext()
    from torch.utils.tensorboard import SummaryWriter  # 1.6 s to import, so only when asked

    return SummaryWriter(folder)


def _log(writer, row):
    for name in row.keys() - {"epoch", "verdict"} if writer else ():
        writer.add_scalar(name, row[name], row["epoch"])
