"""Network and score -> maps (B,h,w), signed and unscaled; upsampling, ReLU, scaling and colour belong to whoever draws them."""

import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, Occlusion

from her2lib import stain
from her2lib.scores import CUTS

ATTENTION_BYTES = (
    2**29
)  # attention of all layers kept at once: 22 MB a patch for ViT-B at 224 px, 606 MB at 512 px
WHY_NOT_LAST_OUTPUT = (
    "Grad-CAM at the last block's output is refused: the logits read only the pooled token there, so the gradient with respect "
    "to every patch token is exactly zero and a picture of it shows nothing of the network. Use at='features', the tokens "
    "ENTERING the last block; last_output_cam computes the zero for a figure."
)


@dataclass(frozen=True)
class Method:
    """function (net, x, score) -> (B,h,w); caption for its figure; needs "any" network or one with "attention"; null or not."""

    function: Callable
    caption: str
    needs: str = "any"
    null: bool = False


def explained(logits, score):
    """(B,) what a map explains: a score's logit (int or (B,) ints), log-odds of exceeding a cut ("1+|2+") or "expected" score."""
    if isinstance(score, str):
        if score == "expected":
            return logits.softmax(1) @ torch.arange(
                logits.shape[1], device=logits.device, dtype=logits.dtype
            )
        if score not in CUTS:
            raise ValueError(
                f"{score!r} cannot be explained: give a score 0..3, a cut ({', '.join(CUTS)}) or 'expected'."
            )
        above = CUTS.index(score) + 1
        return logits[:, above:].logsumexp(1) - logits[:, :above].logsumexp(1)
    wanted = torch.as_tensor(score, device=logits.device)
    if wanted.is_floating_point() or not ((wanted >= 0) & (wanted < logits.shape[1])).all():
        raise ValueError(
            f"A score to explain is a whole number 0..{logits.shape[1] - 1}, not {score}."
        )
    return logits.gather(1, wanted.expand(len(logits)).long()[:, None])[:, 0]


def grad_cam(net, x, score, *, at="features"):
    """(B,h,w) features weighted by their mean gradient, no ReLU (Selvaraju 2017)."""
    if at != "features":
        refused = at == "last_output" and net.layers
        raise ValueError(
            WHY_NOT_LAST_OUTPUT if refused else f"Grad-CAM is taken at 'features', not at {at!r}."
        )
    features, gradient = features_gradient(net, x, score)
    return torch.einsum("bchw,bc->bhw", features, gradient.mean((2, 3)))


def hires_cam(net, x, score):
    """(B,h,w) features times gradient, summed over channels (Draelos & Carin 2020)."""
    features, gradient = features_gradient(net, x, score)
    return (features * gradient).sum(1)


def layer_cam(net, x, score):
    """(B,h,w) features times positive gradient, summed over channels (Jiang 2021)."""
    features, gradient = features_gradient(net, x, score)
    return (features * gradient.relu()).sum(1)


def attention(net, x, score=None, *, layer=-1, head=None, query=None):
    """(B,h,w) attention paid to each patch by a query: None = the token the logits read, or (row, column); head None = mean."""
    layer += _layers(net) if layer < 0 else 0
    with looking(net, gradients=False):
        seen = net.tap(x, attention=(layer,)).attention[layer]  # (B,heads,T,T)
    seen = seen.mean(1) if head is None else seen[:, head]
    return _on_grid(net, _step(_reader(net, seen, query), seen))


def rollout(net, x, score=None):
    """(B,h,w) attention followed from what the logits read back to the patches, half of it residual (Abnar & Zuidema 2020)."""

    def piece(part, _):
        seen = net.tap(part, attention=range(net.layers)).attention
        row = _reader(net, seen[0])
        for layer in reversed(
            range(net.layers)
        ):  # one row through the T x T matrices; their own product would cost T times more
            row = 0.5 * row + 0.5 * _step(row, seen[layer].mean(1))
        return _on_grid(net, row)

    return _in_pieces(net, x, score, piece, gradients=False)


def relevance(net, x, score, *, through_stem=True):
    """(B,h,w) gradient-weighted attention relevance, at least 0: rules 5 and 6 (Chefer 2021), rule 5 at the hybrid's stem."""

    def piece(part, wanted):
        tap = net.tap(_leaf(part), attention=range(net.layers))
        inside = [tap.attention[i] for i in range(net.layers)] + [tap.stem] * (
            through_stem and tap.stem is not None
        )
        paths = torch.autograd.grad(explained(tap.logits, wanted).sum(), inside)
        paths = [
            (path * value.detach()).relu_().mean(1)
            for path, value in zip(paths, inside, strict=True)
        ]
        start = row = _reader(net, inside[0].detach())
        for layer in reversed(
            range(net.layers)
        ):  # R <- R + mean over heads of (gradient x attention)+ times R, one row of it
            row = row + _step(row, paths[layer])
        # No skip connection goes round the stem, so rule 6 loses its identity there and the stem's
        # rule-5 weight multiplies.
        return _on_grid(net, row - start) * (paths[-1] if len(paths) > net.layers else 1)

    return _in_pieces(net, x, score, piece, gradients=True)


def integrated_gradients(net, x, score, *, steps=32):
    """(B,H,W) integrated gradients from clear glass to the patch, summed over colours (Sundararajan 2017; Captum)."""
    with looking(net, gradients=True):
        method = IntegratedGradients(lambda part, wanted: explained(net(part), wanted))
        path = dict(
            baselines=_glass(net, x).expand_as(x).contiguous(),
            n_steps=steps,
            internal_batch_size=len(x),
        )
        return (
            method.attribute(_leaf(x), additional_forward_args=_wanted(score, x), **path)
            .sum(1)
            .detach()
        )


def occlusion(net, x, score, *, window_px=None, batch=32):
    """(B,H,W) fall of what is explained where a square of glass hides the patch, mean over the squares (Zeiler 2014; Captum)."""
    window_px = window_px or max(
        2, x.shape[-1] // 7
    )  # the CNNs' features are a 7 x 7 grid at 224 px
    squares = dict(
        sliding_window_shapes=(3, window_px, window_px), strides=(3, window_px // 2, window_px // 2)
    )
    with looking(net, gradients=False):
        method = Occlusion(lambda part, wanted: explained(net(part), wanted))
        passes = dict(
            baselines=_glass(net, x).expand_as(x), perturbations_per_eval=max(1, batch // len(x))
        )
        return method.attribute(
            x, additional_forward_args=_wanted(score, x), **squares, **passes
        ).mean(1)


def random_map(net, x, score=None, *, seed=0):
    """(B,h,w) null: standard normal noise on the network's grid, drawn from the patch itself and the seed."""
    return torch.stack(
        [torch.randn(net.grid, generator=generator) for generator in generators(x, seed)]
    ).to(x)


def blur_random(net, x, score, *, seed=0):
    """(B,h,w) null: the very values of the Grad-CAM with nearly its spectrum, placed by chance."""
    return surrogate(grad_cam(net, x, score), generators(x, seed))


def surrogate(maps, generators, *, rounds=20):
    """(B,h,w) maps with the same values and nearly the same power spectrum, otherwise random (Schreiber & Schmitz 1996)."""
    values, amplitude = maps.flatten(1).sort(1).values, torch.fft.rfft2(maps).abs()
    noise = torch.stack(
        [torch.rand(maps.shape[1:], generator=generator) for generator in generators]
    ).to(maps)
    for turn in range(rounds + 1):
        if turn:
            noise = torch.fft.irfft2(
                torch.polar(amplitude, torch.fft.rfft2(noise).angle()), s=maps.shape[1:]
            )
        noise = (
            torch.empty_like(values).scatter_(1, noise.flatten(1).argsort(1), values).view_as(maps)
        )
    return noise


def centre_map(net, x, score=None):
    """(B,h,w) null: a Gaussian hill at the patch's centre, sigma a quarter of the side."""
    down, across = (
        torch.linspace(-1, 1, 2 * n + 1, device=x.device, dtype=x.dtype)[1::2] for n in net.grid
    )
    return torch.exp(-2 * (down[:, None] ** 2 + across**2)).expand(len(x), *net.grid).clone()


def dab_map(net, x, score=None):
    """(B,H,W) null: plain DAB optical density of the patch, no network."""
    return stain.dab(input_pixels(net, x)).to(x)


def edge_map(net, x, score=None):
    """(B,H,W) null: Sobel gradient of the patch's grey value (0..1) per px, no network."""
    grey = F.pad(
        input_pixels(net, x).to(x).mean(1, keepdim=True) / 255, (1, 1, 1, 1), mode="replicate"
    )
    sobel = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    return F.conv2d(grey, torch.stack([sobel, sobel.T])[:, None]).norm(dim=1)


METHODS = {
    "grad_cam": Method(grad_cam, "Grad-CAM: features weighted by their mean gradient"),
    "hires_cam": Method(hires_cam, "HiResCAM: features times gradient, place by place"),
    "layer_cam": Method(layer_cam, "LayerCAM: features times positive gradient, place by place"),
    "attention": Method(
        attention, "Attention of the last layer, mean of the heads; knows no score", "attention"
    ),
    "rollout": Method(rollout, "Attention rollout through all layers; knows no score", "attention"),
    "relevance": Method(
        relevance, "Gradient-weighted attention relevance, Chefer's rules 5 and 6", "attention"
    ),
    "integrated_gradients": Method(
        integrated_gradients, "Integrated gradients from clear glass to the patch"
    ),
    "occlusion": Method(
        occlusion, "Occlusion: what is lost where a square of glass hides the patch"
    ),
    "random": Method(random_map, "Null: random noise", null=True),
    "blur_random": Method(
        blur_random, "Null: Grad-CAM's own values and spectrum, placed by chance", null=True
    ),
    "centre": Method(centre_map, "Null: a hill at the patch's centre", null=True),
    "dab": Method(dab_map, "Null: plain DAB optical density, no network", null=True),
    "edges": Method(edge_map, "Null: edges of the grey value, no network", null=True),
}


def methods_for(net):
    """{name: Method} of the methods that this network has the insides for."""
    return {name: method for name, method in METHODS.items() if method.needs == "any" or net.layers}


def last_output_cam(net, x, score):
    """(maps (B,h,w), largest |gradient|) of Grad-CAM at the last block's OUTPUT: exactly 0 where the logits read one token."""
    _layers(net)
    kept = []
    handle = net.backbone.blocks[-1].register_forward_hook(
        lambda block, args, tokens: kept.append(tokens)
    )
    try:
        with looking(net, gradients=True):
            gradient = torch.autograd.grad(explained(net(_leaf(x)), score).sum(), kept)[0][
                :, net.prefix_tokens :
            ]
    finally:
        handle.remove()
    patches = kept[0].detach()[:, net.prefix_tokens :]  # (B,h*w,C)
    maps = torch.einsum("btc,bc->bt", patches, gradient.mean(1)).reshape(len(x), *net.grid)
    return maps, gradient.abs().max().item()


@contextmanager
def looking(net, *, gradients):
    """Eval mode inside (dropout and batch statistics would make the map noise) and, outside, all as it was, whatever happens."""
    was = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            yield
    finally:
        for module, training in was:
            module.training = training


def generators(x, seed):
    """One generator per patch from its own numbers and the seed, so that a batch equals its patches one by one."""
    rows = (
        x.detach().cpu().contiguous().numpy()
    )  # torch reads 32 bits of a seed only, so both must go into the sum
    return [torch.Generator().manual_seed(zlib.crc32(row.tobytes(), seed)) for row in rows]


def input_pieces(net, x):
    """Slices of the batch, so small that the attention of all layers fits ATTENTION_BYTES."""
    tokens = net.prefix_tokens + net.grid[0] * net.grid[1]
    size = max(1, ATTENTION_BYTES // (_layers(net) * net.heads * tokens**2 * x.element_size()))
    return [slice(start, start + size) for start in range(0, len(x), size)]


def input_pixels(net, x):
    """(B,3,H,W) uint8, the image behind a normalised input."""
    return (
        ((x * _colours(net.std, x) + _colours(net.mean, x)) * 255)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
    )


def features_gradient(net, x, score):
    """(features, gradient) both (B,C,h,w); the backward pass stops there, so no parameter's gradient is computed or stored."""
    # only what follows a CNN's features needs a graph: nothing before them is kept for a backward
    # pass
    if not net.layers:
        with looking(net, gradients=False):
            features = net.tap(x).features
        with looking(net, gradients=True):
            leaf = _leaf(features)
            return features, torch.autograd.grad(explained(net.after(leaf), score).sum(), leaf)[0]
    with looking(net, gradients=True):
        tap = net.tap(_leaf(x))
        return tap.features.detach(), torch.autograd.grad(
            explained(tap.logits, score).sum(), tap.features
        )[0]


def _in_pieces(net, x, score, piece, *, gradients):
    """(B,h,w) of piece(part, its scores)."""
    wanted = _wanted(score, x)
    with looking(net, gradients=gradients):
        return torch.cat(
            [
                piece(x[part], wanted[part] if torch.is_tensor(wanted) else wanted)
                for part in input_pieces(net, x)
            ]
        )


def _wanted(score, x):
    """A (B,) tensor where every patch has its own score, else the one int or word for all (which Captum must not repeat)."""
    return (
        score
        if score is None or isinstance(score, (int, str))
        else torch.as_tensor(score, device=x.device).expand(len(x))
    )


def _leaf(x):
    """A fresh leaf with x's values: frozen weights need one, and the caller's x gets neither .grad nor requires_grad."""
    return x.detach().clone().requires_grad_()


def _layers(net):
    """int, the network's layers of attention; an error where it has none."""
    if not net.layers:
        raise ValueError(
            f"{net.network} has no attention: use grad_cam, hires_cam or layer_cam, or a network with attention."
        )
    return net.layers


def _reader(net, attention, query=None):
    """(B,T) row with 1 at a query (row, column), else at the token the logits read, else all patches evenly (no prefix token)."""
    row = attention.new_zeros(len(attention), attention.shape[-1])
    if query is None and not net.prefix_tokens:
        return row + 1 / row.shape[1]
    if query is not None and not all(
        0 <= place < side for place, side in zip(query, net.grid, strict=True)
    ):
        raise ValueError(
            f"There is no patch token {query}: the grid is {net.grid[0]} rows by {net.grid[1]} columns, from 0."
        )
    row[:, 0 if query is None else net.prefix_tokens + query[0] * net.grid[1] + query[1]] = 1
    return row


def _step(row, attention):
    """(B,T) row times matrix (B,T,T)."""
    return torch.bmm(row[:, None], attention)[:, 0]


def _on_grid(net, row):
    """(B,h,w) the patches' part of (B,T); prefix tokens stand before the patches."""
    return row[:, net.prefix_tokens :].reshape(len(row), *net.grid)


def _colours(values, x):
    """(1,3,1,1) three numbers, like x."""
    return x.new_tensor(values).reshape(1, 3, 1, 1)


def _glass(net, x):
    """(1,3,1,1) clear white glass as the network's input."""
    return (1 - _colours(net.mean, x)) / _colours(net.std, x)
