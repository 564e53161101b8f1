"""Do the maps deserve belief: remove what they mark, randomise weights, shift, stain; what does a network live on?"""

import copy

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torchvision.transforms.v2.functional import gaussian_blur

from her2lib import stain
from her2lib.maps import attribution, focus, imputation
from her2lib.networks import models

SHARES = tuple(share / 10 for share in range(1, 10))  # of the pixels imputed by ROAD (Rong 2022)


def deletion(net, x, *, maps, score, steps=20, baseline="blur"):
    """(B,steps+1) what is still shown as the map's highest cells are taken away: baseline "blur", or "tokens" dropped."""
    return _curve(net, x, maps, score, steps, baseline, inserted=False)


def insertion(net, x, *, maps, score, steps=20, baseline="blur"):
    """(B,steps+1) what the network shows as the map's highest cells are put onto the baseline (or are the only tokens)."""
    return _curve(net, x, maps, score, steps, baseline, inserted=True)


def area(curves):
    """(B,) mean height of deletion (low = believable map) or insertion (high) curves (B,steps+1), by trapezoids."""
    return torch.trapezoid(curves, dim=1) / (curves.shape[1] - 1)


def road(net, x, *, maps, score, shares=SHARES, noise=0.01, seed=0):
    """DataFrame, a row per patch and share: what is shown with the most and with the least relevant pixels imputed."""
    ranks = _ranks(F.interpolate(maps[:, None], x.shape[-2:], mode="bilinear")[:, 0])
    grain = torch.stack(
        [
            torch.randn(x.shape[1:], generator=generator)
            for generator in attribution.generators(x, seed)
        ]
    ).to(x)
    tables = []
    with attribution.looking(net, gradients=False):
        for share in shares:
            shown = {"patch": range(len(x)), "share": share}
            for end, hidden in (("least", ranks >= 1 - share), ("most", ranks < share)):
                given = imputation.impute(x, hidden) + noise * grain * hidden[:, None]
                shown[end] = _shown(net(given), score).cpu().numpy()
            tables.append(pd.DataFrame(shown))
    table = pd.concat(tables).sort_values(["patch", "share"], ignore_index=True)
    return table.assign(road=(table.least - table.most) / 2)


def faithfulness_scores(net, x, *, maps, score, steps=5, shares=(0.3, 0.6)):
    """DataFrame, a row per patch: deletion and insertion (areas, blurred baseline) and road (mean over shares)."""
    curves = {
        removed.__name__: area(removed(net, x, maps=maps, score=score, steps=steps)).cpu()
        for removed in (deletion, insertion)
    }
    table = pd.DataFrame({"patch": range(len(x)), **curves})
    return table.join(
        road(net, x, maps=maps, score=score, shares=shares).groupby("patch")["road"].mean(),
        on="patch",
    )


def randomised_copies(net, *, stages=8, seed=0):
    """Yields (stage, module reached, copy of net), the values of ever more tensors shuffled, from the output to the input."""
    net = copy.deepcopy(net)
    owners = [(name, [*module.parameters(recurse=False)]) for name, module in net.named_modules()]
    owners = [owner for owner in owners if owner[1]][::-1]
    generator = torch.Generator().manual_seed(seed)
    for stage, places in enumerate(
        torch.arange(len(owners)).tensor_split(min(stages, len(owners))), 1
    ):
        for tensor in (tensor for place in places for tensor in owners[place][1]):
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.data = tensor.data.flatten()[order].view_as(
                tensor
            )  # it keeps its scale: only what was learnt is lost
        yield stage, owners[places[-1]][0], net


def sanity(net, x, *, score, method=attribution.grad_cam, stages=8, seed=0):
    """DataFrame, a row per stage and patch: likeness to the intact network's map, which belief wants to fall (Adebayo 2018)."""
    intact = method(net, x, score)
    tables = [map_similarity(intact, intact).assign(stage=0, module="intact")]
    for stage, name, wrecked in randomised_copies(net, stages=stages, seed=seed):
        tables.append(
            map_similarity(intact, method(wrecked, x, score)).assign(stage=stage, module=name)
        )
    return pd.concat(tables, ignore_index=True)


def map_similarity(a, b, *, grid=7, top=0.2):
    """DataFrame, a row per patch: spearman of two maps on at most grid x grid cells, overlap (Jaccard) of their highest cells."""
    size = [min(grid, *sides) for sides in zip(a.shape[1:], b.shape[1:], strict=True)]
    a, b = (
        torch.from_numpy(rankdata(_pooled(maps, size).flatten(1).numpy(), axis=1))
        for maps in (a, b)
    )
    centred = [ranks - ranks.mean(1, keepdim=True) for ranks in (a, b)]
    spearman = (centred[0] * centred[1]).sum(1) / (
        centred[0].norm(dim=1) * centred[1].norm(dim=1)
    )  # NaN for a constant map
    high = [ranks > (1 - top) * ranks.shape[1] for ranks in (a, b)]
    overlap = (high[0] & high[1]).sum(1) / (high[0] | high[1]).sum(1)
    return pd.DataFrame({"patch": range(len(a)), "spearman": spearman, "overlap": overlap})


def stability(net, images, *, score, method=attribution.grad_cam, shift_px=8, seed=0):
    """DataFrame, a row per change (shift, stain) and patch: likeness of the map of the changed uint8 patch to the patch's own."""
    own = method(net, models.normalise(images, net), score)
    stained = stain.jitter(images, generator=torch.Generator().manual_seed(seed))
    moved = method(net, models.normalise(images.roll((shift_px, shift_px), (2, 3)), net), score)
    there, back = (
        F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear")[:, 0]
        for maps in (own, moved)
    )
    inner = (
        ...,
        slice(shift_px, -shift_px),
        slice(shift_px, -shift_px),
    )  # what was rolled over the border does not belong there
    shifted = map_similarity(there[inner], back.roll((-shift_px, -shift_px), (1, 2))[inner]).assign(
        change="shift"
    )
    stained = map_similarity(own, method(net, models.normalise(stained, net), score)).assign(
        change="stain"
    )
    return pd.concat([shifted, stained], ignore_index=True)


def similarity_under_change(
    net, images, *, score, method=attribution.grad_cam, stages=2, shift_px=8
):
    """DataFrame, a row per change and patch: likeness of maps to the patch's own; "another patch" is the null that belief must clear."""
    own = method(net, models.normalise(images, net), score)
    tables = [
        map_similarity(own, own.roll(len(own) // 2, 0)).assign(change="another patch")
    ]  # half a table away: seldom of the same slide
    wrecked = sanity(net, models.normalise(images, net), score=score, method=method, stages=stages)
    for stage, name in ((1, "later half randomised"), (stages, "all weights randomised")):
        tables.append(
            wrecked[wrecked.stage == stage].drop(columns=["stage", "module"]).assign(change=name)
        )
    return pd.concat(
        [*tables, stability(net, images, score=score, method=method, shift_px=shift_px)],
        ignore_index=True,
    )


def deciding_mass(maps, deciding):
    """DataFrame, a row per map and patch, "oracle" added: mass on the cells that decide the score, their area, lift over it."""
    covered = deciding.cpu().double().mean((1, 2))
    rows = []
    for name, given in (maps | {"oracle": deciding.float()}).items():
        mass = focus.mass_fraction(given, deciding)
        rows.append(
            pd.DataFrame(
                {
                    "patch": range(len(mass)),
                    "map": name,
                    "mass": mass,
                    "area": covered,
                    "lift": mass / covered,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def ablations(images, *, masks=None, mpp=None, seed=0):
    """{name: (B,3,H,W) uint8} the patches with one kind of evidence left or taken; masks from stain, or the truth on phantoms."""
    tumour = (masks or stain.masks(images, mpp=mpp))["tumour"][:, None]
    rim_px = round(stain.px(images, 6.0, mpp))
    grown = (
        F.max_pool2d(tumour.float(), 2 * rim_px + 1, 1, rim_px) > 0
    )  # a brown rim left standing would tell the score
    glass = stain.white_point(images).round().to(torch.uint8)[:, :, None, None]
    down, across = (
        (torch.arange(side) - (side - 1) / 2).abs() >= side / 4 for side in images.shape[-2:]
    )
    corners = (down[:, None] & across).to(images.device)  # the outer quarters of both sides
    return {
        "intact": images,
        "dab_only": stain.only(images, "dab"),
        "haematoxylin_only": stain.only(images, "haematoxylin"),
        "hue_removed": stain.only(images, "grey"),
        "membranes_blurred": _membranes_blurred(images, mpp),
        "background_only": torch.where(grown, glass, images),
        "tumour_only": torch.where(tumour, images, glass),
        "corners_only": torch.where(corners, images, glass),
        "tiles_shuffled": _tiles_shuffled(images, torch.Generator().manual_seed(seed)),
    }


def _shown(logits, score):
    """(B,) on a scale people read: probability of a score, probability of exceeding a cut, or the expected score."""
    if isinstance(score, str):
        value = attribution.explained(logits, score)
        return value if score == "expected" else value.sigmoid()
    return attribution.explained(logits.log_softmax(1), score).exp()


def _ranks(maps):
    """(B,h,w) 0 for the highest cell to just under 1 for the lowest."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = (
        torch.arange(order.shape[1], device=maps.device, dtype=torch.float32).expand_as(order)
        / order.shape[1]
    )
    return torch.empty_like(places).scatter_(1, order, places).view_as(maps)


def _curve(net, x, maps, score, steps, baseline, inserted):
    if baseline not in ("blur", "tokens"):
        raise ValueError(
            f"{baseline!r} is not a baseline: take 'blur', or 'tokens' for a network with attention."
        )
    with attribution.looking(net, gradients=False):
        step = (
            _token_step(net, x, maps, inserted)
            if baseline == "tokens"
            else _blur_step(net, x, maps, inserted)
        )
        return torch.stack([_shown(step(k / steps), score) for k in range(steps + 1)], 1)


def _blur_step(net, x, maps, inserted):
    ranks = F.interpolate(_ranks(maps)[:, None], x.shape[-2:], mode="nearest")
    start, end = (_blur(x, x.shape[-1] / 10), x) if inserted else (x, _blur(x, x.shape[-1] / 10))
    return lambda share: net(torch.where(ranks < share, end, start))


def _token_step(net, x, maps, inserted):
    """A transformer needs no stand-in for what is gone: it reads the remaining tokens (prefix tokens always stay)."""
    if not net.layers:
        raise ValueError(f"{net.network} has no tokens to drop: use baseline='blur'.")
    tokens = net.tokens(x)[1]
    order = (
        _pooled(maps, net.grid).flatten(1).argsort(dim=1, descending=True, stable=True).to(x.device)
        + net.prefix_tokens
    )

    def step(share):
        cut = round(share * order.shape[1])
        keep = order[:, :cut] if inserted else order[:, cut:]
        left = torch.cat(
            [
                tokens[:, : net.prefix_tokens],
                tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2])),
            ],
            1,
        )
        return net.backbone.forward_head(net.backbone.norm(net.backbone.blocks(left)))

    return step


def _pooled(maps, size):
    return F.adaptive_avg_pool2d(
        maps.cpu().double(), size
    )  # on the CPU: Apple's GPUs know no double precision


def _blur(images, sigma_px):
    """Gaussian blur in two one-dimensional passes: the square kernel costs more than the network at 224 px."""
    side = 2 * min(round(3 * sigma_px), min(images.shape[-2:]) - 1) + 1
    for kernel in ((side, 1), (1, side)):
        images = gaussian_blur(images, kernel, [max(sigma_px, 1e-3)] * 2)
    return images


def _membranes_blurred(images, mpp):
    """DAB spread over 6 um, more than a membrane and less than a cell, at each patch's own mean DAB."""
    stains = stain.unmix(images, residual=True)
    brown = stains[:, 1:2].clamp(min=0)
    flat = _blur(brown, stain.px(images, 6.0, mpp))
    stains[:, 1:2] = (
        flat * brown.mean((2, 3), keepdim=True) / flat.mean((2, 3), keepdim=True).clamp(min=1e-9)
    )
    density = torch.einsum("bshw,sc->bchw", stains, stain.HDAB.to(stains))
    return (255 * torch.pow(10.0, -density)).round().clamp(0, 255).to(torch.uint8)


def _tiles_shuffled(images, generator, tiles=4):
    b, c, h, w = images.shape
    h, w = h // tiles, w // tiles
    cut = (
        images[:, :, : h * tiles, : w * tiles]
        .reshape(b, c, tiles, h, tiles, w)
        .permute(0, 2, 4, 1, 3, 5)
        .flatten(1, 2)
    )
    cut = torch.stack(
        [patch[torch.randperm(tiles**2, generator=generator).to(images.device)] for patch in cut]
    )
    return (
        cut.reshape(b, tiles, tiles, c, h, w)
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(b, c, h * tiles, w * tiles)
    )
