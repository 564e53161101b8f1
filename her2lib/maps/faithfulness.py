"""Do the maps deserve belief: remove what they mark, randomise the weights, shift, stain."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import rankdata

from her2lib import stain
from her2lib.maps import attribution, focus, imputation, inside
from her2lib.maps.interventions import blurred
from her2lib.networks import models

SHARES = tuple(share / 10 for share in range(1, 10))  # of the pixels imputed by ROAD (Rong 2022)


# --- what is lost without the marked places -----------------------------------------------------


def faithfulness_scores(
    net: models.Net,
    x: torch.Tensor,
    *,
    maps: torch.Tensor,
    score: int | str | torch.Tensor,
    steps: int = 5,
    shares: Sequence[float] = (0.3, 0.6),
) -> pd.DataFrame:
    """DataFrame, a row per patch: deletion and insertion (areas, blurred baseline) and road.

    x (B,3,H,W) is normalised float, maps (B,h,w) are of the same patches, score is what they
    explain. Low deletion, high insertion and road (mean over shares) above 0 speak for a map.
    Example: faithfulness_scores(net, x, maps=grad_cam(net, x, 2), score=2)
    """
    options = {"maps": maps, "score": score, "steps": steps}
    table = pd.DataFrame(
        {
            "patch": range(len(x)),
            "deletion": area(deletion(net, x, **options)).cpu(),
            "insertion": area(insertion(net, x, **options)).cpu(),
        }
    )
    imputed = road(net, x, maps=maps, score=score, shares=shares)
    return table.join(imputed.groupby("patch")["road"].mean(), on="patch")


def deletion(net, x, *, maps, score, steps=20, baseline="blur"):
    """(B,steps+1) what is still shown as the map's highest cells are taken away.

    baseline is what takes their place: "blur", or "tokens" that are dropped.
    """
    return _curve(net, x, maps, score, steps, baseline, inserted=False)


def insertion(net, x, *, maps, score, steps=20, baseline="blur"):
    """(B,steps+1) what the network shows as the map's highest cells are put onto the baseline."""
    return _curve(net, x, maps, score, steps, baseline, inserted=True)


def area(curves):
    """(B,) mean height of deletion (low = believable map) or insertion (high) curves."""
    return torch.trapezoid(curves, dim=1) / (curves.shape[1] - 1)


def road(net, x, *, maps, score, shares=SHARES, noise=0.01, seed=0):
    """DataFrame, a row per patch and share: road and what it is made of (Rong 2022).

    most and least are what is shown with the most and the least relevant pixels imputed.
    """
    ranks = _ranks(F.interpolate(maps[:, None], x.shape[-2:], mode="bilinear")[:, 0])  # (B,H,W)
    grain = [torch.randn(x.shape[1:], generator=g) for g in inside.generators(x, seed)]
    grain = torch.stack(grain).to(x)
    tables = []
    with inside.looking(net, gradients=False):
        for share in shares:
            table = pd.DataFrame({"patch": range(len(x)), "share": share})
            for end, hidden in (("least", ranks >= 1 - share), ("most", ranks < share)):
                imputed = imputation.impute(x, hidden) + noise * grain * hidden[:, None]
                table[end] = _shown(net(imputed), score).cpu().numpy()
            tables.append(table)
    table = pd.concat(tables).sort_values(["patch", "share"], ignore_index=True)
    return table.assign(road=(table.least - table.most) / 2)


def _curve(net, x, maps, score, steps, baseline, inserted):
    """(B,steps+1) what the network shows with ever more of the map's highest cells exchanged."""
    if baseline not in ("blur", "tokens"):
        raise ValueError(
            f"{baseline!r} is not a baseline: take 'blur', or 'tokens' for a network with "
            "attention."
        )
    with inside.looking(net, gradients=False):
        if baseline == "tokens":
            logits_at = _token_step(net, x, maps, inserted)
        else:
            logits_at = _blur_step(net, x, maps, inserted)
        shown = [_shown(logits_at(step / steps), score) for step in range(steps + 1)]
        return torch.stack(shown, 1)


def _blur_step(net, x, maps, inserted):
    """Function share -> logits (B,4) with that share of the highest cells exchanged for a blur."""
    ranks = F.interpolate(_ranks(maps)[:, None], x.shape[-2:], mode="nearest")
    blur = blurred(x, x.shape[-1] / 10)

    def logits_at(share):
        if inserted:
            return net(torch.where(ranks < share, x, blur))
        return net(torch.where(ranks < share, blur, x))

    return logits_at


def _token_step(net, x, maps, inserted):
    """Function share -> logits (B,4) of a transformer that reads the remaining tokens.

    It needs no stand-in for what is gone; the prefix tokens always stay.
    """
    if not net.layers:
        raise ValueError(f"{net.network} has no tokens to drop: use baseline='blur'.")
    tokens = net.tokens(x)[1]  # (B,T,C)
    order = _pooled(maps, net.grid).flatten(1).argsort(dim=1, descending=True, stable=True)
    order = order.to(x.device) + net.prefix_tokens

    def logits_at(share):
        cut = round(share * order.shape[1])
        keep = order[:, cut:]
        if inserted:
            keep = order[:, :cut]
        patches = tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        remaining = torch.cat([tokens[:, : net.prefix_tokens], patches], 1)
        return net.backbone.forward_head(net.backbone.norm(net.backbone.blocks(remaining)))

    return logits_at


def _shown(logits, score):
    """(B,) as people read it: probability of a score or above a cut, or the expected score."""
    if isinstance(score, str) and score == "expected":
        return attribution.explained(logits, score)
    if isinstance(score, str):
        return attribution.explained(logits, score).sigmoid()
    return attribution.explained(logits.log_softmax(1), score).exp()


def _ranks(maps):
    """(B,h,w) 0 for the highest cell to just under 1 for the lowest."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    n = order.shape[1]
    ranks = torch.arange(n, device=maps.device, dtype=torch.float32).expand_as(order) / n
    return torch.empty_like(ranks).scatter_(1, order, ranks).view_as(maps)


# --- does a map change where it should, and stay where it should? -------------------------------


def map_similarity(
    a: torch.Tensor, b: torch.Tensor, *, grid: int = 7, top: float = 0.2
) -> pd.DataFrame:
    """DataFrame, a row per patch of two maps (B,h,w): spearman, and overlap of the highest cells.

    Both are pooled to at most grid x grid cells; overlap is Jaccard's of the highest `top` of
    them. spearman is NaN for a constant map. Example: map_similarity(grad_cam(net, x, 1), other)
    """
    size = [min(grid, *sides) for sides in zip(a.shape[1:], b.shape[1:], strict=True)]
    a = _cell_ranks(a, size)
    b = _cell_ranks(b, size)
    centred_a = a - a.mean(1, keepdim=True)
    centred_b = b - b.mean(1, keepdim=True)
    length = centred_a.norm(dim=1) * centred_b.norm(dim=1)
    lowest = (1 - top) * a.shape[1]
    high_a = a > lowest
    high_b = b > lowest
    return pd.DataFrame(
        {
            "patch": range(len(a)),
            "spearman": (centred_a * centred_b).sum(1) / length,
            "overlap": (high_a & high_b).sum(1) / (high_a | high_b).sum(1),
        }
    )


def similarity_under_change(
    net: models.Net,
    images: torch.Tensor,
    *,
    score: int | str | torch.Tensor,
    method: Callable = attribution.grad_cam,
    stages: int = 2,
    shift_px: int = 8,
) -> pd.DataFrame:
    """DataFrame, a row per change and patch: likeness of a map to the patch's own (uint8 images).

    Changes: the weights randomised, the patch shifted, its stain varied; "another patch" is the
    null that belief must clear.
    """
    x = models.normalise(images, net)
    intact = method(net, x, score)
    # half a table away: seldom of the same slide
    tables = [
        map_similarity(intact, intact.roll(len(intact) // 2, 0)).assign(change="another patch")
    ]
    randomised = sanity(net, x, score=score, method=method, stages=stages)
    for stage, change in ((1, "later half randomised"), (stages, "all weights randomised")):
        table = randomised[randomised.stage == stage].drop(columns=["stage", "module"])
        tables.append(table.assign(change=change))
    tables.append(stability(net, images, score=score, method=method, shift_px=shift_px))
    return pd.concat(tables, ignore_index=True)


def sanity(net, x, *, score, method=attribution.grad_cam, stages=8, seed=0):
    """DataFrame, a row per stage and patch: likeness to the intact network's map.

    It must fall as ever more weights are randomised (Adebayo 2018).
    """
    intact = method(net, x, score)
    tables = [map_similarity(intact, intact).assign(stage=0, module="intact")]
    for stage, module, randomised in randomised_copies(net, stages=stages, seed=seed):
        table = map_similarity(intact, method(randomised, x, score))
        tables.append(table.assign(stage=stage, module=module))
    return pd.concat(tables, ignore_index=True)


def randomised_copies(net: models.Net, *, stages: int = 8, seed: int = 0) -> Iterator[tuple]:
    """(stage, module reached, copy of net), ever more tensors shuffled from output to input.

    It is one copy that is shuffled on, so each is to be used before the next is asked for.
    """
    net = copy.deepcopy(net)
    # from the output to the input, so that a map which reads only the first layers is found out
    owners: list[tuple[str, list]] = []
    for name, module in net.named_modules():
        tensors = list(module.parameters(recurse=False))
        if tensors:
            owners.insert(0, (name, tensors))
    generator = torch.Generator().manual_seed(seed)
    pieces = torch.arange(len(owners)).tensor_split(min(stages, len(owners)))
    for stage, piece in enumerate(pieces, 1):
        for i in piece.tolist():
            name, tensors = owners[i]
            for tensor in tensors:
                _shuffle(tensor, generator)
        yield stage, name, net


def _shuffle(tensor, generator):
    """Puts a tensor's values in an order drawn by chance, in place."""
    # it keeps its scale: only what was learnt is lost
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    tensor.data = tensor.data.flatten()[order].view_as(tensor)


def stability(net, images, *, score, method=attribution.grad_cam, shift_px=8, seed=0):
    """DataFrame, a row per change (shift, stain) and patch: likeness of the map to its own.

    The change is made to the uint8 patch, a shift by shift_px in both directions.
    """
    intact = method(net, models.normalise(images, net), score)
    jittered = stain.jitter(images, generator=torch.Generator().manual_seed(seed))
    moved_images = images.roll((shift_px, shift_px), (2, 3))
    moved = method(net, models.normalise(moved_images, net), score)

    # what was rolled over the border does not belong there
    inner = (..., slice(shift_px, -shift_px), slice(shift_px, -shift_px))
    moved_back = _enlarged(moved, images).roll((-shift_px, -shift_px), (1, 2))
    shifted = map_similarity(_enlarged(intact, images)[inner], moved_back[inner])
    stained = map_similarity(intact, method(net, models.normalise(jittered, net), score))
    tables = [shifted.assign(change="shift"), stained.assign(change="stain")]
    return pd.concat(tables, ignore_index=True)


def _enlarged(maps, images):
    """(B,H,W) maps at the size of the images."""
    return F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear")[:, 0]


def _cell_ranks(maps, size):
    """(B,cells) the rank of each cell of maps pooled to size."""
    return torch.from_numpy(rankdata(_pooled(maps, size).flatten(1).numpy(), axis=1))


def _pooled(maps, size):
    """(B,h,w) double, means of the maps on a grid of that size, on the CPU."""
    # Apple's GPUs know no double precision
    return F.adaptive_avg_pool2d(maps.cpu().double(), size)


# --- where the truth is known -------------------------------------------------------------------


def deciding_mass(maps: Mapping[str, torch.Tensor], deciding: torch.Tensor) -> pd.DataFrame:
    """DataFrame, a row per map and patch: mass on the deciding cells, their area, lift.

    deciding (B,H,W) bool marks the cells that decide the score; a map of them, "oracle", is added.
    """
    covered = deciding.cpu().double().mean((1, 2))
    tables = []
    for name, looks in {**maps, "oracle": deciding.float()}.items():
        mass = focus.mass_fraction(looks, deciding)
        columns = {"map": name, "mass": mass, "area": covered, "lift": mass / covered}
        tables.append(pd.DataFrame({"patch": range(len(mass)), **columns}))
    return pd.concat(tables, ignore_index=True)
