"""From the store to the network: the order of an epoch, batches on the device, flips, stain jitter, mixup."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from timm.data import Mixup
from torch.nn import functional as F

from her2lib.stain import jitter

CHUNK_BYTES = (
    128 << 20
)  # pinned and copied to the device at once: 850 patches at 224 px, 42 at 1024 px


def epoch_order(score, *, seed, epoch, balanced=False):
    """(N,) int64 patches of one epoch: each once, or with replacement so that every score comes equally often."""
    generator = _generator(seed, epoch, 0)
    if not balanced:
        return torch.randperm(len(score), generator=generator)
    score = torch.as_tensor(score)
    share = 1.0 / torch.bincount(score)[score]
    return torch.multinomial(share, len(score), replacement=True, generator=generator)


def cut_batches(rows, batch, *, even=False):
    """list of index tensors of at most batch patches; a last batch of one is dropped (batch norm), even ones for mixup."""
    parts = [part[: len(part) // 2 * 2] if even else part for part in rows.split(batch)]
    return [part for part in parts if len(part) > 1] or [rows]


def to_device(images, device):
    """(images, sentence): copied to the GPU when they fit half of its free memory, else left where they are."""
    device = torch.device(device)
    if device.type == "cpu":
        return images, "patches are read straight from the memory map"
    size, free = (
        images.nbytes,
        torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 4 << 30,
    )
    if size <= free // 2:
        return images.to(
            device
        ), f"all {len(images)} patches ({size / 1e9:.2f} GB) are held on {device}"
    return (
        images,
        f"{size / 1e9:.2f} GB of patches pass half of the free {free / 1e9:.2f} GB: chunks are streamed to {device}",
    )


def batches(images, parts, device):
    """iterator of (b,3,H,W) uint8 on the device, one per part; one thread gathers chunks ahead when images lie elsewhere."""
    device = torch.device(device)
    if images.device.type == device.type:
        for part in parts:
            yield images.index_select(0, part.to(images.device))
        return
    many = max(1, CHUNK_BYTES // max(1, images[:1].nbytes * len(parts[0])))
    chunks = [parts[i : i + many] for i in range(0, len(parts), many)]
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_gather, images, chunks[0], device)
        for chunk, later in zip(chunks, [*chunks[1:], None], strict=True):
            here = coming.result().to(device, non_blocking=True)
            coming = later and pool.submit(_gather, images, later, device)
            yield from here.split([len(part) for part in chunk])


def augment(images, *, seed, epoch, step, flips=False, stain=0.0):
    """(B,3,H,W) uint8: each patch under one of the eight flips and turns, its stains jittered in optical density."""
    generator = _generator(seed, epoch, step + 1)
    if flips:  # three coin tosses make all eight, without interpolation
        across, down, turn = (
            torch.rand(3, len(images), 1, 1, 1, generator=generator).lt(0.5).to(images.device)
        )
        images = torch.where(across, images.flip(3), images)
        images = torch.where(down, images.flip(2), images)
        images = torch.where(turn, images.transpose(2, 3), images)
    return jitter(images, generator=generator, strength=stain) if stain else images


def mixer(alpha, scores):
    """function of (x, score) -> (x, (B,scores) shares): timm's mixup, or the plain one-hot scores when alpha is 0."""
    mixup = Mixup(mixup_alpha=alpha, label_smoothing=0.0, num_classes=scores) if alpha else None
    return lambda x, score: mixup(x, score) if mixup else (x, F.one_hot(score, scores).float())


def seed_global_rngs(seed, epoch):
    """None; dropout (torch) and timm's mixup (numpy) draw from the global streams, so every epoch starts them anew."""
    start = _generator(seed, epoch, 0).initial_seed()
    torch.manual_seed(start)
    np.random.seed(start % 2**32)


@contextmanager
def preserve_rng_state():
    """A stretch after which the caller's global random streams stand where they stood."""
    state = np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(state)


def _generator(*numbers):
    seed = 0
    # a stream of its own for each epoch and step: nothing to store, a resumed run draws the same
    for number in numbers:
        seed = (seed * 1_000_003 + int(number) + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(seed)


def _gather(images, chunk, device):
    rows = images.index_select(0, torch.cat(chunk))
    return rows.pin_memory() if device.type == "cuda" else rows
