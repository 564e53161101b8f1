"""How close training is to the bare steps, and how far ahead of a DataLoader that decodes PNGs.

python benchmarks/train.py                    2 cores, about 3 minutes: ResNet18, 224 px
python benchmarks/train.py --device cuda      the four networks, BCI-sized epochs (3,896 patches)

Everything is measured in one run, in turns; on a GPU the peak memory too.
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
from her2lib.networks.learner import choose_arithmetic
from her2lib.phantoms import dataset

SETTINGS = recipes.recipe("as_presented", network="resnet18")
# Patches of the official training set.
BCI = 3896
NETWORKS = ("resnet18", "densenet201", "vit_b16", "hybrid")
WORKERS = 2


# --- what is compared --------------------------------------------------------------------------


class DecodingDataset(Dataset):
    """What a DataLoader usually does: open, decode, shrink and normalise a patch when asked."""

    def __init__(self, files, n, net):
        self.files = files
        self.n = n
        self.steps = v2.Compose(
            [
                v2.PILToTensor(),
                v2.Resize(net.side_px, antialias=True),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(net.mean, net.std),
            ]
        )

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        with Image.open(self.files[i % len(self.files)]) as image:
            return self.steps(image.convert("RGB")), i % 4


class BareSteps:
    """The steps of fit (same optimizer, precision and layout) on whatever (x, score) it is fed."""

    def __init__(self, net, device, steps):
        self.arithmetic = choose_arithmetic(torch.device(device), "auto")
        self.net = models.rebuild(net)
        self.net = self.net.to(device, memory_format=self.arithmetic.layout).train()
        self.optimizer, _ = recipes.optimizer(self.net, SETTINGS, steps)

    def seconds(self, feed):
        """(2,) wall and CPU seconds of one epoch."""
        device = self.arithmetic.device
        dtype = self.arithmetic.dtype
        started = now()
        for x, score in feed:
            x = x.to(device, memory_format=self.arithmetic.layout)
            score = score.to(device)
            with torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
                logits = self.net(x).float()
            loss = F.cross_entropy(logits, score)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        # Waits for the device.
        float(loss.detach())
        return now() - started

    def quicker_of_two(self, feed):
        """(2,) the least wall and CPU seconds of two epochs, as seconds_of_fit takes them too."""
        return np.min([self.seconds(feed), self.seconds(feed)], 0)


def seconds_of_fit(net, patches, device):
    """((2,) wall and CPU seconds of one epoch of fit, Fit).

    Wall: the quicker of epochs 2 and 3. CPU: half of what three epochs cost more than one.
    """
    cost = {}
    for epochs in (1, 3):
        settings = {**SETTINGS, "epochs": epochs}
        started = now()
        fit = train.fit(net, patches, seed=0, progress=False, device=device, **settings)
        cost[epochs] = now() - started
    wall = fit.history["train_seconds"][2:].min()
    cpu = (cost[3] - cost[1])[1] / 2
    return np.array([wall, cpu]), fit


# --- the two comparisons -----------------------------------------------------------------------


def against_resident(network, patches, *, side_px, device, rounds):
    """dict: an epoch of fit against the same steps on resident tensors; patches/s, peak memory."""
    net = models.create(network, side_px=side_px, weights="none")
    batch = SETTINGS["batch"]
    sizes = [len(part) for part in torch.arange(len(patches.score)).split(batch)]
    bare = BareSteps(net, device, len(sizes))
    score = torch.arange(batch, device=device) % 4
    x = torch.randn(batch, 3, side_px, side_px, device=device)
    x = x.contiguous(memory_format=bare.arithmetic.layout)
    feed = [(x[:size], score[:size]) for size in sizes]
    bare.seconds(feed)
    pairs = []
    # In turns, so that a busy neighbour disturbs both.
    for _ in range(rounds):
        seconds, fit = seconds_of_fit(net, patches, device)
        pairs.append((bare.quicker_of_two(feed), seconds))
    costs = compared(("resident", "fit"), pairs)
    return {
        "network": network,
        "side_px": side_px,
        "n": len(patches.score),
        "device": device,
        "precision": fit.precision,
        **costs,
        "patches_per_s": len(patches.score) / costs["fit_wall_s"],
        "peak_GB": fit.peak_bytes / 1e9,
    }


def against_loader(patches, folder, *, side_px, device, rounds):
    """dict: an epoch of fit against the same steps fed by a DataLoader that decodes 1024 px PNGs.

    And the two feeds alone, in patches/s.
    """
    net = models.create("resnet18", side_px=side_px, weights="none")
    n = len(patches.score)
    decoding = DecodingDataset(write_pictures(folder), n, net)
    loader = DataLoader(decoding, SETTINGS["batch"], shuffle=True, num_workers=WORKERS)
    bare = BareSteps(net, device, len(loader))
    bare.seconds(loader)
    pairs = []
    for _ in range(rounds):
        seconds, _ = seconds_of_fit(net, patches, device)
        pairs.append((seconds, bare.quicker_of_two(loader)))
    return {
        "n": n,
        "workers": WORKERS,
        **compared(("fit", "loader"), pairs),
        "feed_per_s": n / seconds_of_feed(normalised_batches(patches, net)),
        "loader_feed_per_s": n / seconds_of_feed(loader),
    }


def compared(names, pairs):
    """dict: the least wall and CPU seconds of either, and the second as a multiple of the first."""
    first, second = (np.min(costs, 0) for costs in zip(*pairs, strict=True))
    return {
        f"{names[0]}_wall_s": first[0],
        f"{names[1]}_wall_s": second[0],
        "times_wall": second[0] / first[0],
        f"{names[0]}_cpu_s": first[1],
        f"{names[1]}_cpu_s": second[1],
        "times_cpu": second[1] / first[1],
    }


# --- inputs and clocks -------------------------------------------------------------------------


def now():
    """(2,) wall seconds, and CPU seconds of this process and its finished children.

    The second is the same on a busy machine.
    """
    return np.array([time.perf_counter(), sum(os.times()[:4])])


def seconds_of_feed(feed):
    """float, wall seconds until a feed of (x, score) is used up."""
    started = time.perf_counter()
    sum(len(x) for x, _ in feed)
    return time.perf_counter() - started


def normalised_batches(patches, net):
    """iterator of (x, score) of all patches in random order, as fit feeds itself."""
    for part in torch.randperm(len(patches.score)).split(SETTINGS["batch"]):
        yield models.normalise(patches.images[part], net), 0


def mapped_patches(folder, n, side_px):
    """Patches of random pixels, memory-mapped as the store maps them."""
    images = np.memmap(folder / "store", np.uint8, "w+", shape=(n, 3, side_px, side_px))
    for start in range(0, n, 256):
        chunk = images[start : start + 256]
        chunk[:] = np.random.default_rng(start).integers(0, 256, chunk.shape, np.uint8)
    names = np.array([f"patch {i}" for i in range(n)], object)
    return Patches(
        images=torch.from_numpy(images),
        score=np.arange(n) % 4,
        slide=names,
        patient=np.full(n, "", object),
        name=names,
        mpp=np.full(n, np.nan),
    )


def write_pictures(folder):
    """list of the paths of eight PNGs of phantoms, 1024 px."""
    files = [folder / f"{i}.png" for i in range(8)]
    for i, file in enumerate(files):
        Image.fromarray(dataset.make_patch(i, side_px=1024).image).save(file)
    return files


# --- command -----------------------------------------------------------------------------------


def read_options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--n", type=int, help="patches of an epoch (CPU 64, GPU 3,896)")
    parser.add_argument("--side-px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "torch sees no CUDA GPU on this machine, so the GPU part cannot be measured: "
            "leave --device out."
        )
    return options


def main():
    """Prints the hardware and both comparisons."""
    options = read_options()
    networks = NETWORKS[:1]
    n = 64
    hardware = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if options.device == "cuda":
        networks = NETWORKS
        n = BCI
        hardware = torch.cuda.get_device_name()
    print(
        f"{hardware}; torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{platform.platform()}"
    )
    shared = {"side_px": options.side_px, "device": options.device, "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as folder:
        patches = mapped_patches(Path(folder), options.n or n, options.side_px)
        rows = [against_resident(network, patches, **shared) for network in networks]
        print(pd.DataFrame(rows).round(3).T.to_string())
        print(pd.Series(against_loader(patches, Path(folder), **shared)).round(3).to_string())


if __name__ == "__main__":
    main()
