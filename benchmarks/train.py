"""How close training is to the bare steps, and how far ahead of a DataLoader that decodes PNGs: everything in one run.

    python benchmarks/train.py                    2 cores, about 6 minutes: ResNet18, 224 px
    python benchmarks/train.py --device cuda      the four networks, BCI-sized epochs (3,896 patches), peak memory
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from her2lib import models, phantom, recipes, train
from her2lib.patches import Patches

SETTINGS = train.recipe("as_presented", network="resnet18", epochs=2)
BCI = 3896  # patches of the official training set


class Decoded(Dataset):
    """What a DataLoader usually does: open, decode, shrink and normalise each patch whenever it is asked for."""

    def __init__(self, files, n, net):
        self.files, self.n = files, n
        shrink, normalise = v2.Resize(net.side_px, antialias=True), v2.Normalize(net.mean, net.std)
        self.steps = v2.Compose([v2.PILToTensor(), shrink, v2.ToDtype(torch.float32, scale=True), normalise])

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        with Image.open(self.files[i % len(self.files)]) as image:
            return self.steps(image.convert("RGB")), i % 4


class Steps:
    """The bare steps of fit (same optimizer, precision and layout) on whatever (x, score) it is fed."""

    def __init__(self, net, device, steps):
        self.device, (self.dtype, self.reason) = torch.device(device), recipes.choose_precision(device)
        fast = self.dtype == torch.bfloat16 or self.device.type == "cuda"
        self.layout = torch.channels_last if fast else torch.contiguous_format
        self.net = models.rebuild(net).to(self.device, memory_format=self.layout).train()
        self.optimizer, _ = recipes.optimizer(self.net, SETTINGS, steps)

    def seconds(self, feed):
        began = time.perf_counter()
        for x, score in feed:
            x, score = x.to(self.device, memory_format=self.layout), score.to(self.device)
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype == torch.bfloat16):
                logits = self.net(x).float()
            loss = F.cross_entropy(logits, score)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        float(loss.detach())  # waits for the device
        return time.perf_counter() - began


def mapped(folder, n, side_px):
    """Patches of random pixels, memory-mapped as the store maps them."""
    images = np.memmap(folder / "store", np.uint8, "w+", shape=(n, 3, side_px, side_px))
    for start in range(0, n, 256):
        images[start : start + 256] = np.random.default_rng(start).integers(0, 256, images[start : start + 256].shape, np.uint8)
    words = np.array([f"patch {i}" for i in range(n)], object)
    return Patches(torch.from_numpy(images), np.arange(n) % 4, words, np.full(n, "", object), words, np.full(n, np.nan))


def against_resident(network, patches, *, side_px, device, rounds):
    """dict: seconds of an epoch of fit, of the same steps on resident random tensors, their ratio, peak memory."""
    net = models.create(network, side_px=side_px, weights="none")
    n, batch = len(patches.score), SETTINGS["batch"]
    sizes = [len(part) for part in torch.arange(n).split(batch)]
    x = torch.randn(batch, 3, side_px, side_px, device=device)
    score = torch.arange(batch, device=device) % 4
    bare, ours, ceiling = Steps(net, device, len(sizes)), [], []
    x = x.contiguous(memory_format=bare.layout)
    for _ in range(rounds):  # in turns, so that a busy neighbour disturbs both; the second epoch of each is timed
        fit = train.fit(net, patches, seed=0, progress=False, device=device, **SETTINGS)
        ours.append(fit.history["train_seconds"].iloc[-1])
        ceiling.append([bare.seconds([(x[:size], score[:size]) for size in sizes]) for _ in range(2)][-1])
    costs = dict(fit_s=min(ours), resident_s=min(ceiling))
    costs |= dict(times_of_best=min(ours) / min(ceiling), times_median=_median(ours, ceiling))
    facts = dict(network=network, side_px=side_px, n=n, device=device, precision=fit.precision)
    return facts | costs | dict(share=min(ceiling) / min(ours), patches_per_s=n / min(ours), peak_GB=fit.peak_bytes / 1e9)


def _median(above, below):
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def against_loader(patches, folder, *, side_px, device, rounds, workers=2):
    """dict: patches/s of fit, and of the same steps fed by a DataLoader that decodes 1024 px PNGs; and of the two feeds alone."""
    net = models.create("resnet18", side_px=side_px, weights="none")
    files = [folder / f"{i}.png" for i in range(8)]
    for i, file in enumerate(files):
        Image.fromarray(phantom.patch(i, side_px=1024).image).save(file)
    n, batch = len(patches.score), SETTINGS["batch"]
    loader = DataLoader(Decoded(files, n, net), batch, shuffle=True, num_workers=workers, persistent_workers=True)
    bare, ours, theirs = Steps(net, device, len(loader)), [], []
    for _ in range(rounds):
        fit = train.fit(net, patches, seed=0, progress=False, device=device, **SETTINGS)
        ours.append(fit.history["train_seconds"].iloc[-1])
        theirs.append([bare.seconds(loader) for _ in range(2)][-1])
    began = time.perf_counter()
    decoded = sum(len(x) for x, _ in loader)
    alone, began = decoded / (time.perf_counter() - began), time.perf_counter()
    fed = sum(len(models.normalise(patches.images.index_select(0, part), net)) for part in torch.randperm(n).split(batch))
    feed = dict(feed_per_s=fed / (time.perf_counter() - began), loader_feed_per_s=alone)
    rates = dict(fit_per_s=n / min(ours), loader_per_s=n / min(theirs))
    times = dict(times_of_best=min(theirs) / min(ours), times_median=_median(theirs, ours))
    return dict(n=n, workers=workers) | rates | times | feed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--n", type=int, help="patches of an epoch (CPU 96, GPU 3,896)")
    parser.add_argument("--side-px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    said = parser.parse_args()
    gpu = said.device == "cuda"
    if gpu and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA GPU on this machine, so the GPU part cannot be measured: leave --device out.")
    shared = dict(side_px=said.side_px, device=said.device, rounds=said.rounds)
    hardware = torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{hardware}; torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.platform()}")
    with tempfile.TemporaryDirectory() as folder:
        patches = mapped(Path(folder), said.n or (BCI if gpu else 96), said.side_px)
        networks = ("resnet18", "densenet201", "vit_b16", "hybrid") if gpu else ("resnet18",)
        rows = [against_resident(network, patches, **shared) for network in networks]
        print(pd.DataFrame(rows).round(3).T.to_string())
        print(pd.Series(against_loader(patches, Path(folder), **shared)).round(3).to_string())


if __name__ == "__main__":
    main()
