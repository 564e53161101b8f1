"""How close training is to the bare steps, and how far ahead of a DataLoader that decodes PNGs: everything in one run.

python benchmarks/train.py                    2 cores, about 3 minutes: ResNet18, 224 px
python benchmarks/train.py --device cuda      the four networks, BCI-sized epochs (3,896 patches), peak memory
"""

import argparse
import os
import platform
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

from her2lib.data.patches import Patches
from her2lib.networks import models, recipes, train
from her2lib.phantoms import dataset

SETTINGS = recipes.recipe("as_presented", network="resnet18")
BCI = 3896  # patches of the official training set


class Decoded(Dataset):
    """What a DataLoader usually does: open, decode, shrink and normalise each patch whenever it is asked for."""

    def __init__(self, files, n, net):
        self.files, self.n = files, n
        shrink, normalise = v2.Resize(net.side_px, antialias=True), v2.Normalize(net.mean, net.std)
        self.steps = v2.Compose(
            [v2.PILToTensor(), shrink, v2.ToDtype(torch.float32, scale=True), normalise]
        )

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        with Image.open(self.files[i % len(self.files)]) as image:
            return self.steps(image.convert("RGB")), i % 4


class Steps:
    """The bare steps of fit (same optimizer, precision and layout) on whatever (x, score) it is fed."""

    def __init__(self, net, device, steps):
        self.device, (self.dtype, self.reason) = (
            torch.device(device),
            recipes.choose_precision(device),
        )
        fast = self.dtype == torch.bfloat16 or self.device.type == "cuda"
        self.layout = torch.channels_last if fast else torch.contiguous_format
        self.net = models.rebuild(net).to(self.device, memory_format=self.layout).train()
        self.optimizer, _ = recipes.optimizer(self.net, SETTINGS, steps)

    def cost(self, feed):
        """[wall, CPU] seconds of one epoch."""
        began = now()
        for x, score in feed:
            x, score = x.to(self.device, memory_format=self.layout), score.to(self.device)
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype == torch.bfloat16):
                logits = self.net(x).float()
            loss = F.cross_entropy(logits, score)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        float(loss.detach())  # waits for the device
        return now() - began


def mapped(folder, n, side_px):
    """Patches of random pixels, memory-mapped as the store maps them."""
    images = np.memmap(folder / "store", np.uint8, "w+", shape=(n, 3, side_px, side_px))
    for start in range(0, n, 256):
        images[start : start + 256] = np.random.default_rng(start).integers(
            0, 256, images[start : start + 256].shape, np.uint8
        )
    words = np.array([f"patch {i}" for i in range(n)], object)
    return Patches(
        torch.from_numpy(images),
        np.arange(n) % 4,
        words,
        np.full(n, "", object),
        words,
        np.full(n, np.nan),
    )


def now():
    """[wall seconds, CPU seconds of this process and its finished children]: the second is the same on a busy machine."""
    return np.array([time.perf_counter(), sum(os.times()[:4])])


def epoch_of_fit(net, patches, device):
    """([wall, CPU] seconds of one epoch of fit, Fit): wall of the quicker of epochs 2 and 3; CPU: half of three less one."""
    cost = {}
    for epochs in (1, 3):
        began = now()
        fit = train.fit(
            net, patches, seed=0, progress=False, device=device, **{**SETTINGS, "epochs": epochs}
        )
        cost[epochs] = now() - began
    return np.array([fit.history["train_seconds"][2:].min(), (cost[3] - cost[1])[1] / 2]), fit


def compared(names, pairs):
    """dict: the least wall and CPU seconds of either side, and how many times the first the second is, least against least."""
    first, second = (np.min(side, 0) for side in zip(*pairs, strict=True))
    wall = {
        f"{names[0]}_wall_s": first[0],
        f"{names[1]}_wall_s": second[0],
        "times_wall": second[0] / first[0],
    }
    return wall | {
        f"{names[0]}_cpu_s": first[1],
        f"{names[1]}_cpu_s": second[1],
        "times_cpu": second[1] / first[1],
    }


def against_resident(network, patches, *, side_px, device, rounds):
    """dict: an epoch of fit against the same steps on resident random tensors, patches/s, peak memory."""
    net = models.create(network, side_px=side_px, weights="none")
    batch, pairs = SETTINGS["batch"], []
    sizes = [len(part) for part in torch.arange(len(patches.score)).split(batch)]
    bare, score = Steps(net, device, len(sizes)), torch.arange(batch, device=device) % 4
    x = torch.randn(batch, 3, side_px, side_px, device=device).contiguous(memory_format=bare.layout)
    feed = [(x[:size], score[:size]) for size in sizes]
    bare.cost(feed)
    for _ in range(rounds):  # in turns, so that a busy neighbour disturbs both
        ours, fit = epoch_of_fit(net, patches, device)
        pairs.append(
            (np.min([bare.cost(feed), bare.cost(feed)], 0), ours)
        )  # the quicker of two, as there
    found = compared(("resident", "fit"), pairs)
    facts = dict(
        network=network,
        side_px=side_px,
        n=len(patches.score),
        device=device,
        precision=fit.precision,
    )
    return (
        facts
        | found
        | dict(patches_per_s=len(patches.score) / found["fit_wall_s"], peak_GB=fit.peak_bytes / 1e9)
    )


def against_loader(patches, folder, *, side_px, device, rounds, workers=2):
    """dict: an epoch of fit against the same steps fed by a DataLoader that decodes 1024 px PNGs, and the two feeds alone."""
    net = models.create("resnet18", side_px=side_px, weights="none")
    files = [folder / f"{i}.png" for i in range(8)]
    for i, file in enumerate(files):
        Image.fromarray(dataset.make_patch(i, side_px=1024).image).save(file)
    n, batch = len(patches.score), SETTINGS["batch"]
    loader = DataLoader(Decoded(files, n, net), batch, shuffle=True, num_workers=workers)
    bare = Steps(net, device, len(loader))
    bare.cost(loader)
    pairs = [
        (epoch_of_fit(net, patches, device)[0], np.min([bare.cost(loader), bare.cost(loader)], 0))
        for _ in range(rounds)
    ]
    feeds = []
    for feed in (
        (
            (models.normalise(patches.images[part], net), 0)
            for part in torch.randperm(n).split(batch)
        ),
        loader,
    ):
        began = now()
        feeds.append((sum(len(x) for x, _ in feed), now() - began)[1])
    facts = dict(n=n, workers=workers) | compared(("fit", "loader"), pairs)
    return facts | dict(feed_per_s=n / feeds[0][0], loader_feed_per_s=n / feeds[1][0])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--n", type=int, help="patches of an epoch (CPU 64, GPU 3,896)")
    parser.add_argument("--side-px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=2)
    said = parser.parse_args()
    gpu = said.device == "cuda"
    if gpu and not torch.cuda.is_available():
        raise SystemExit(
            "torch sees no CUDA GPU on this machine, so the GPU part cannot be measured: leave --device out."
        )
    shared = dict(side_px=said.side_px, device=said.device, rounds=said.rounds)
    hardware = (
        torch.cuda.get_device_name()
        if gpu
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(
        f"{hardware}; torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.platform()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        patches = mapped(Path(folder), said.n or (BCI if gpu else 64), said.side_px)
        networks = ("resnet18", "densenet201", "vit_b16", "hybrid") if gpu else ("resnet18",)
        rows = [against_resident(network, patches, **shared) for network in networks]
        print(pd.DataFrame(rows).round(3).T.to_string())
        print(pd.Series(against_loader(patches, Path(folder), **shared)).round(3).to_string())


if __name__ == "__main__":
    main()
