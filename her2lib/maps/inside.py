"""Looking into a network: what is explained, what it reads, and leaving all of it as it was."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from her2lib.networks import models
from her2lib.scores import CUTS

# attention of all layers held at once: 22 MB a patch for ViT-B at 224 px, 606 MB at 512 px
ATTENTION_BYTES = 2**29
# patches whose features and gradients are held at once, however many are asked for
BATCH = 32
NO_ATTENTION = (
    "{network} has no attention: use grad_cam, hires_cam or layer_cam, or a network with attention."
)


# --- what is explained --------------------------------------------------------------------------


def explained(logits: torch.Tensor, score: int | str | Sequence[int]) -> torch.Tensor:
    """(B,) what a map explains, of (B,4) logits.

    score is a score 0..3 (an int, or one per patch): its logit; a cut such as "1+|2+": the
    log-odds of exceeding it; "expected": the expected score. Raises ValueError for anything else.
    """
    if isinstance(score, str):
        return _explained_by_name(logits, score)
    scores = torch.as_tensor(score, device=logits.device)
    inside = (scores >= 0) & (scores < logits.shape[1])
    if scores.is_floating_point() or not inside.all():
        raise ValueError(
            f"A score to explain is a whole number 0..{logits.shape[1] - 1}, not {score}."
        )
    return logits.gather(1, scores.expand(len(logits)).long()[:, None])[:, 0]


def _explained_by_name(logits, name):
    """(B,) the expected score, or the log-odds of lying above a cut."""
    if name == "expected":
        scores = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype)
        return logits.softmax(1) @ scores
    if name not in CUTS:
        raise ValueError(
            f"{name!r} cannot be explained: give a score 0..3, a cut ({', '.join(CUTS)}) "
            "or 'expected'."
        )
    above = CUTS.index(name) + 1
    return logits[:, above:].logsumexp(1) - logits[:, :above].logsumexp(1)


# --- looking into a network ---------------------------------------------------------------------


@contextmanager
def looking(net: models.Net, *, gradients: bool) -> Iterator[None]:
    """Eval mode inside and, outside, everything as it was, whatever happens.

    Dropout and batch statistics would make the map noise.
    """
    before = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            yield
    finally:
        for module, training in before:
            module.training = training


def network_input(net, x):
    """(B,3,H,W) float, patches as this network reads them; a ValueError says what does not fit.

    uint8 patches (tensor, array, or something with .images) are normalised; a float tensor is
    taken as normalised already.
    """
    computes_in = next(net.parameters(), torch.empty(0)).dtype
    is_float = torch.is_tensor(x) and x.is_floating_point()
    if is_float and x.dtype != computes_in:
        raise ValueError(
            f"{net.network} computes in {_plain(computes_in)}, the patches are {_plain(x.dtype)}: "
            "give uint8 patches, or what models.normalise makes of them."
        )
    if is_float and (x.ndim != 4 or x.shape[1] != 3):
        raise ValueError(f"Maps are made of patches (B,3,H,W), not of shape {tuple(x.shape)}.")
    x = models.as_input(net, x).to(computes_in)
    models.refuse_other_side(net, x)
    return x


def generators(x, seed):
    """list of B generators, each from its patch's own numbers and the seed.

    So a batch equals its patches one by one.
    """
    rows = x.detach().cpu().contiguous().numpy()
    # torch reads 32 bits of a seed only, so both must go into the sum
    return [torch.Generator().manual_seed(zlib.crc32(row.tobytes(), seed)) for row in rows]


def attention_batch(net, x):
    """int, how many patches' attention of all layers fits ATTENTION_BYTES, at least one."""
    tokens = net.prefix_tokens + net.grid[0] * net.grid[1]
    return max(1, ATTENTION_BYTES // (layers_of(net) * net.heads * tokens**2 * x.element_size()))


def input_pieces(net, x):
    """list of slices of the batch, so small that the attention of all layers fits memory."""
    size = attention_batch(net, x)
    return [slice(start, start + size) for start in range(0, len(x), size)]


def input_pixels(net, x):
    """(B,3,H,W) uint8, the image behind a normalised input."""
    pixels = (x * _colours(net.std, x) + _colours(net.mean, x)) * 255
    return pixels.round().clamp(0, 255).to(torch.uint8)


def in_pieces(x, score, piece, size):
    """(B,h,w) of piece(part, its scores), size patches at a time."""
    scores = scores_of(score, x)
    maps = []
    for start in range(0, max(len(x), 1), size):
        part = slice(start, start + size)
        if torch.is_tensor(scores):
            maps.append(piece(x[part], scores[part]))
        else:
            maps.append(piece(x[part], scores))
    return torch.cat(maps)


def scores_of(score, x):
    """A (B,) tensor where every patch has its own score, else the one int or word for all.

    Captum must not repeat a word or an int for every step, so these stay as they are.
    """
    if score is None or isinstance(score, (int, str)):
        return score
    if not torch.is_tensor(score):
        score = np.array(score)  # a copy: what a store hands out is read-only
    scores = torch.as_tensor(score, device=x.device)
    if scores.ndim and scores.shape != x.shape[:1]:
        raise ValueError(
            f"There are {len(x)} patches but scores of shape {tuple(scores.shape)}: "
            "give one score for all, or one for each patch."
        )
    return scores.expand(len(x))


def leaf_of(x):
    """A fresh leaf with x's values: the caller's x gets neither .grad nor requires_grad.

    Where all weights are frozen, a gradient needs such a leaf.
    """
    return x.detach().clone().requires_grad_()


def layers_of(net):
    """int, the network's layers of attention; an error where it has none."""
    if not net.layers:
        raise ValueError(NO_ATTENTION.format(network=net.network))
    return net.layers


def _plain(dtype):
    """str, "float32" of torch.float32."""
    return str(dtype).removeprefix("torch.")


def _colours(values, x):
    """(1,3,1,1) three numbers, like x."""
    return x.new_tensor(values).reshape(1, 3, 1, 1)
