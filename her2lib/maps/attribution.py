"""Network and score -> maps (B,h,w), signed and unscaled; enlarging and colour belong to plots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, Occlusion

from her2lib import stain
from her2lib.maps.inside import (
    BATCH,
    attention_batch,
    explained,
    generators,
    in_pieces,
    input_pixels,
    layers_of,
    leaf_of,
    looking,
    network_input,
    scores_of,
)
from her2lib.networks import models

WHY_NOT_LAST_OUTPUT = (
    "Grad-CAM at the last block's output is refused: the logits read only the pooled token there, "
    "so the gradient with respect to every patch token is exactly zero and a picture of it shows "
    "nothing of the network. Use at='features', the tokens ENTERING the last block; "
    "last_output_cam computes the zero for a figure."
)


@dataclass(frozen=True)
class Method:
    """function (net, x, score) -> (B,h,w), the caption of its figure, what a network must have."""

    function: Callable
    caption: str
    needs: str = "any"  # "any" network or one with "attention"
    null: bool = False


# --- maps from features and their gradient ------------------------------------------------------


def grad_cam(
    net: models.Net, x: object, score: int | str | Sequence[int], *, at: str = "features"
) -> torch.Tensor:
    """(B,h,w) features weighted by their mean gradient, signed, no ReLU (Selvaraju 2017).

    x is uint8 patches (B,3,H,W) as tensor, array or something with .images, which are normalised
    for this network, or float patches that already are. score is what is explained, for all
    patches or one for each: see explained. The maps come on the network's own grid (2 x 2 for 64
    px, 7 x 7 for 224 px); plots.upsample enlarges one to the patch. Raises ValueError for input
    that does not fit the network, and for at="last_output", where the gradient of a transformer
    is zero. Example: grad_cam(net, test.images[:8], score=probabilities[:8].argmax(1))
    """
    if at == "last_output" and net.layers:
        raise ValueError(WHY_NOT_LAST_OUTPUT)
    if at != "features":
        raise ValueError(f"Grad-CAM is taken at 'features', not at {at!r}.")

    def weighted(features, gradient):
        return torch.einsum("bchw,bc->bhw", features, gradient.mean((2, 3)))

    return _from_features(net, x, score, weighted)


def hires_cam(net, x, score):
    """(B,h,w) features times gradient, summed over channels (Draelos & Carin 2020)."""

    def product(features, gradient):
        return (features * gradient).sum(1)

    return _from_features(net, x, score, product)


def layer_cam(net, x, score):
    """(B,h,w) features times positive gradient, summed over channels (Jiang 2021)."""

    def positive_product(features, gradient):
        return (features * gradient.relu()).sum(1)

    return _from_features(net, x, score, positive_product)


def features_gradient(net, x, score):
    """(features, gradient) both (B,C,h,w) of normalised patches, all of them in one batch."""
    # The backward pass stops at the features, so no parameter's gradient is computed or stored.
    # Of a CNN only what follows the features needs a graph: nothing before them is remembered.
    if not net.layers:
        with looking(net, gradients=False):
            features = net.tap(x).features
        with looking(net, gradients=True):
            leaf = leaf_of(features)
            target = explained(net.after(leaf), score).sum()
            return features, torch.autograd.grad(target, leaf)[0]
    with looking(net, gradients=True):
        tap = net.tap(leaf_of(x))
        target = explained(tap.logits, score).sum()
        return tap.features.detach(), torch.autograd.grad(target, tap.features)[0]


def last_output_cam(net, x, score):
    """(maps (B,h,w), largest |gradient|) of Grad-CAM BEHIND the last block: both exactly 0.

    They are 0 because the logits read one token there; for a figure that shows this.
    """
    layers_of(net)
    x = network_input(net, x)
    outputs = []

    def remember(block, args, tokens):
        outputs.append(tokens)

    handle = net.backbone.blocks[-1].register_forward_hook(remember)
    try:
        with looking(net, gradients=True):
            target = explained(net(leaf_of(x)), scores_of(score, x)).sum()
            gradient = torch.autograd.grad(target, outputs)[0][:, net.prefix_tokens :]
    finally:
        handle.remove()
    patches = outputs[0].detach()[:, net.prefix_tokens :]  # (B,h*w,C)
    maps = torch.einsum("btc,bc->bt", patches, gradient.mean(1)).reshape(len(x), *net.grid)
    return maps, gradient.abs().max().item()


def _from_features(net, x, score, combine):
    """(B,h,w) of combine(features, gradient), BATCH patches at a time."""

    def piece(part, scores):
        return combine(*features_gradient(net, part, scores))

    return in_pieces(network_input(net, x), score, piece, BATCH)


# --- maps from attention ------------------------------------------------------------------------


def attention(
    net: models.Net,
    x: object,
    score: object = None,
    *,
    layer: int = -1,
    head: int | None = None,
    query: tuple[int, int] | None = None,
) -> torch.Tensor:
    """(B,h,w) attention that a query pays to each patch token; it knows no score.

    query is (row, column) of a patch token, or None: the token that the logits read. head None is
    the mean of the heads. Raises ValueError for a network without attention and for a layer or
    query that it does not have. Example: attention(net, test.images[:8], layer=0, head=2)
    """
    n_layers = layers_of(net)
    if layer < 0:
        layer += n_layers

    def piece(part, _):
        weights = net.tap(part, attention=(layer,)).attention[layer]  # (B,heads,T,T)
        weights = _of_head(weights, head)
        return _on_grid(net, _step(_reader(net, weights, query), weights))

    with looking(net, gradients=False):
        return in_pieces(network_input(net, x), score, piece, BATCH)


def rollout(net: models.Net, x: object, score: object = None) -> torch.Tensor:
    """(B,h,w) attention from what the logits read back to the patches (Abnar & Zuidema 2020).

    Half of every layer is residual; it knows no score. Input and errors as of grad_cam, and a
    network without attention is refused. Example: rollout(net, test.images[:8])
    """

    def piece(part, _):
        weights = net.tap(part, attention=range(net.layers)).attention
        row = _reader(net, weights[0])
        # one row goes through the T x T matrices: their own product would cost T times more
        for layer in reversed(range(net.layers)):
            row = 0.5 * row + 0.5 * _step(row, weights[layer].mean(1))
        return _on_grid(net, row)

    x = network_input(net, x)
    with looking(net, gradients=False):
        return in_pieces(x, score, piece, attention_batch(net, x))


def relevance(
    net: models.Net, x: object, score: int | str | Sequence[int], *, through_stem: bool = True
) -> torch.Tensor:
    """(B,h,w) gradient-weighted attention relevance, at least 0 (Chefer 2021, rules 5 and 6).

    through_stem multiplies by rule 5 at the hybrid's convolutional stem. Input and errors as of
    grad_cam, and a network without attention is refused. Example: relevance(net, images, score=2)
    """

    def piece(part, scores):
        tap = net.tap(leaf_of(part), attention=range(net.layers))
        inside = [tap.attention[layer] for layer in range(net.layers)]
        if through_stem and tap.stem is not None:
            inside.append(tap.stem)
        paths = _positive_paths(explained(tap.logits, scores).sum(), inside)
        start = _reader(net, inside[0].detach())
        row = start
        # R <- R + mean over heads of (gradient x attention)+ times R, one row of it
        for layer in reversed(range(net.layers)):
            row = row + _step(row, paths[layer])
        maps = _on_grid(net, row - start)
        # No skip connection goes round the stem, so rule 6 loses its identity there and the stem's
        # rule-5 weight multiplies.
        if len(paths) > net.layers:
            return maps * paths[-1]
        return maps

    x = network_input(net, x)
    with looking(net, gradients=True):
        return in_pieces(x, score, piece, attention_batch(net, x))


def _positive_paths(target, inside):
    """list of (B,...) gradient times value, its positive part, mean over heads or channels."""
    gradients = torch.autograd.grad(target, inside)
    return [
        (gradient * value.detach()).relu_().mean(1)
        for gradient, value in zip(gradients, inside, strict=True)
    ]


def _of_head(weights, head):
    """(B,T,T) attention of one head, or the mean of all."""
    if head is None:
        return weights.mean(1)
    return weights[:, head]


def _reader(net, weights, query=None):
    """(B,T) row with 1 at the query, else at the token that the logits read, else even.

    A network without a pooled token reads all its patches evenly.
    """
    row = weights.new_zeros(len(weights), weights.shape[-1])
    if query is None and not net.prefix_tokens:
        return row + 1 / row.shape[1]
    row[:, _token(net, query)] = 1
    return row


def _token(net, query):
    """int, the token of a patch (row, column), or 0, the pooled one; prefix tokens stand first."""
    if query is None:
        return 0
    row, column = query
    rows, columns = net.grid
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"There is no patch token {query}: "
            f"the grid is {rows} rows by {columns} columns, from 0."
        )
    return net.prefix_tokens + row * columns + column


def _step(row, weights):
    """(B,T) row times matrix (B,T,T)."""
    return torch.bmm(row[:, None], weights)[:, 0]


def _on_grid(net, row):
    """(B,h,w) the patches' part of (B,T); prefix tokens stand before the patches."""
    return row[:, net.prefix_tokens :].reshape(len(row), *net.grid)


# --- maps from the patch put in and taken away --------------------------------------------------


def integrated_gradients(net, x, score, *, steps=32):
    """(B,H,W) integrated gradients from clear glass, summed over colours (Sundararajan 2017)."""

    def forward(part, scores):
        return explained(net(part), scores)

    def piece(part, scores):
        maps = IntegratedGradients(forward).attribute(
            leaf_of(part),
            baselines=_glass_input(net, part).expand_as(part).contiguous(),
            additional_forward_args=scores,
            n_steps=steps,
            internal_batch_size=len(part),
        )
        return maps.sum(1).detach()

    with looking(net, gradients=True):
        return in_pieces(network_input(net, x), score, piece, BATCH)


def occlusion(net, x, score, *, window_px=None, batch=BATCH):
    """(B,H,W) what is lost where a square of glass hides the patch, its mean (Zeiler 2014)."""
    x = network_input(net, x)
    # the CNNs' features are a 7 x 7 grid at 224 px
    window_px = window_px or max(2, x.shape[-1] // 7)

    def forward(part, scores):
        return explained(net(part), scores)

    def piece(part, scores):
        maps = Occlusion(forward).attribute(
            part,
            sliding_window_shapes=(3, window_px, window_px),
            strides=(3, window_px // 2, window_px // 2),
            baselines=_glass_input(net, part).expand_as(part),
            additional_forward_args=scores,
            perturbations_per_eval=max(1, batch // len(part)),
        )
        return maps.mean(1)

    with looking(net, gradients=False):
        return in_pieces(x, score, piece, BATCH)


# --- nulls --------------------------------------------------------------------------------------


def random_map(net, x, score=None, *, seed=0):
    """(B,h,w) null: normal noise on the network's grid, by the patch itself and the seed."""
    x = network_input(net, x)
    noise = [torch.randn(net.grid, generator=generator) for generator in generators(x, seed)]
    return torch.stack(noise).to(x)


def blur_random(net, x, score, *, seed=0):
    """(B,h,w) null: the very values of the Grad-CAM with nearly its spectrum, placed by chance."""
    x = network_input(net, x)
    return surrogate(grad_cam(net, x, score), generators(x, seed))


def surrogate(maps, generators, *, rounds=20):
    """(B,h,w) maps of the same values and nearly the same power spectrum, otherwise random.

    Iterated amplitude-adjusted surrogates (Schreiber & Schmitz 1996), a generator for each map.
    """
    size = maps.shape[1:]
    values = maps.flatten(1).sort(1).values
    amplitude = torch.fft.rfft2(maps).abs()
    noise = torch.stack([torch.rand(size, generator=generator) for generator in generators])
    noise = _with_values(noise.to(maps), values)
    # each round gives back the spectrum, which bends the values, and then the values
    for _ in range(rounds):
        phase = torch.fft.rfft2(noise).angle()
        noise = _with_values(torch.fft.irfft2(torch.polar(amplitude, phase), s=size), values)
    return noise


def _with_values(noise, values):
    """(B,h,w) the ranks of noise with the sorted values (B,h*w) put in their places."""
    order = noise.flatten(1).argsort(1)
    return torch.empty_like(values).scatter_(1, order, values).view_as(noise)


def centre_map(net, x, score=None):
    """(B,h,w) null: a Gaussian hill at the patch's centre, sigma a quarter of the side."""
    x = network_input(net, x)
    down, across = (
        torch.linspace(-1, 1, 2 * n + 1, device=x.device, dtype=x.dtype)[1::2] for n in net.grid
    )
    hill = torch.exp(-2 * (down[:, None] ** 2 + across**2))
    return hill.expand(len(x), *net.grid).clone()


def dab_map(net, x, score=None):
    """(B,H,W) null: plain DAB optical density of the patch, no network."""
    x = network_input(net, x)
    return stain.dab(input_pixels(net, x)).to(x)


def edge_map(net, x, score=None):
    """(B,H,W) null: Sobel gradient of the patch's grey value (0..1) per px, no network."""
    x = network_input(net, x)
    grey = input_pixels(net, x).to(x).mean(1, keepdim=True) / 255
    grey = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    sobel = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    return F.conv2d(grey, torch.stack([sobel, sobel.T])[:, None]).norm(dim=1)


# --- the list of methods ------------------------------------------------------------------------

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


def methods_for(net: models.Net) -> dict[str, Method]:
    """{name: Method} of the methods that this network has the insides for.

    Each is called as method.function(net, x, score) and gives (B,h,w) maps, signed and unscaled;
    method.null says that a map is a null, to stand beside the others. Example:
    {name: m.function(net, x, 2) for name, m in methods_for(net).items()}
    """
    return {name: method for name, method in METHODS.items() if method.needs == "any" or net.layers}


def _glass_input(net, x):
    """(1,3,1,1) clear white glass as the network's input."""
    mean = x.new_tensor(net.mean).reshape(1, 3, 1, 1)
    std = x.new_tensor(net.std).reshape(1, 3, 1, 1)
    return (1 - mean) / std
