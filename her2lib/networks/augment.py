"""From the store to the network: order of an epoch, batches on the device, flips, jitter, mixup."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from timm.data import Mixup
from torch.nn import functional as F

from her2lib.stain import jitter

# Pinned and copied to the device at once: 850 patches at 224 px, 42 at 1024 px.
CHUNK_BYTES = 128 << 20

# --- which patches, in which order -------------------------------------------------------------


def epoch_order(score, *, seed: int, epoch: int, balanced: bool = False) -> torch.Tensor:
    """(N,) int64 patches of one epoch: each once, or drawn so that scores come equally often."""
    generator = _generator(seed, epoch, 0)
    if not balanced:
        return torch.randperm(len(score), generator=generator)
    score = torch.as_tensor(score)
    weight = 1.0 / torch.bincount(score)[score]
    return torch.multinomial(weight, len(score), replacement=True, generator=generator)


def cut_batches(rows: torch.Tensor, batch: int, *, even: bool = False) -> list[torch.Tensor]:
    """list of index tensors of at most batch patches; even ones for mixup.

    A last batch of one is dropped, as batch norm has no variance of one patch.
    """
    parts = list(rows.split(batch))
    if even:
        parts = [part[: len(part) // 2 * 2] for part in parts]
    return [part for part in parts if len(part) > 1] or [rows]


# --- to the device -----------------------------------------------------------------------------


def to_device(images: torch.Tensor, device: str | torch.device) -> tuple[torch.Tensor, str]:
    """(images, sentence): on the GPU when they fit half of its free memory, else where they are."""
    device = torch.device(device)
    if device.type == "cpu":
        return images, "patches are read straight from the memory map"
    size = images.nbytes
    free = _free_bytes(device)
    if size <= free // 2:
        held = images.to(device)
        return held, f"all {len(images)} patches ({size / 1e9:.2f} GB) are held on {device}"
    return images, (
        f"{size / 1e9:.2f} GB of patches pass half of the free {free / 1e9:.2f} GB: "
        f"chunks are streamed to {device}"
    )


def batches(
    images: torch.Tensor, parts: list[torch.Tensor], device: str | torch.device
) -> Iterator[torch.Tensor]:
    """iterator of (b,3,H,W) uint8 on the device, one for each index tensor in parts.

    Where images lie elsewhere, one thread gathers the next chunk while the network works.
    """
    device = torch.device(device)
    if images.device.type == device.type:
        for part in parts:
            yield images.index_select(0, part.to(images.device))
        return
    batch_bytes = images[:1].nbytes * len(parts[0])
    n_parts = max(1, CHUNK_BYTES // max(1, batch_bytes))
    chunks = [parts[i : i + n_parts] for i in range(0, len(parts), n_parts)]
    with ThreadPoolExecutor(1) as pool:
        gathering = pool.submit(_gather, images, chunks[0], device)
        for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
            on_device = gathering.result().to(device, non_blocking=True)
            if following:
                gathering = pool.submit(_gather, images, following, device)
            yield from on_device.split([len(part) for part in chunk])


def _free_bytes(device):
    """int, free memory of an accelerator; 4 GiB where torch cannot ask."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return 4 << 30


def _gather(images, chunk, device):
    """(n,3,H,W) uint8 of the patches of several batches, pinned for a GPU."""
    pixels = images.index_select(0, torch.cat(chunk))
    if device.type == "cuda":
        return pixels.pin_memory()
    return pixels


# --- changes that keep the score ---------------------------------------------------------------


def augment(
    images: torch.Tensor,
    *,
    seed: int,
    epoch: int,
    step: int,
    flips: bool = False,
    stain: float = 0.0,
) -> torch.Tensor:
    """(B,3,H,W) uint8: each patch under one of the eight flips and turns, its stains jittered.

    stain: spread of the jitter in optical density; the same seed, epoch and step draw the same.
    """
    generator = _generator(seed, epoch, step + 1)
    # Three coin tosses make all eight, without interpolation.
    if flips:
        tosses = torch.rand(3, len(images), 1, 1, 1, generator=generator).lt(0.5)
        across, down, turn = tosses.to(images.device)
        images = torch.where(across, images.flip(3), images)
        images = torch.where(down, images.flip(2), images)
        images = torch.where(turn, images.transpose(2, 3), images)
    if stain:
        images = jitter(images, generator=generator, strength=stain)
    return images


def mixer(alpha: float, scores: int) -> Callable:
    """function of (x, score) -> (x, (B,scores) soft labels): timm's mixup; one-hot at alpha 0."""
    if alpha:
        return Mixup(mixup_alpha=alpha, label_smoothing=0.0, num_classes=scores)

    def one_hot(x, score):
        return x, F.one_hot(score, scores).float()

    return one_hot


# --- random streams ----------------------------------------------------------------------------


def seed_global_rngs(seed: int, epoch: int) -> None:
    """None; the global streams, where dropout (torch) and mixup (numpy) draw, start anew."""
    start = _generator(seed, epoch, 0).initial_seed()
    torch.manual_seed(start)
    np.random.seed(start % 2**32)


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """A stretch after which the caller's global random streams stand where they stood."""
    state = np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(state)


def _generator(*numbers):
    """Generator of a stream of its own for each epoch and step.

    So nothing has to be stored, and a resumed run draws the same.
    """
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + int(number) + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(seed)
