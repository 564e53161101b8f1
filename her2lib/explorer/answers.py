"""What the explorer may ask of a network, and the answers: maps and attention as uint8 arrays."""

import inspect

import numpy as np
import torch
from torch.nn import functional as F

from her2lib.maps.attribution import METHODS, methods_for
from her2lib.maps.inside import input_pieces, looking
from her2lib.scores import CUTS, SCORES

# Nothing in the definition of these goes below 0.
UNSIGNED = ("attention", "rollout", "relevance", "centre", "dab", "edges")

# 33 and about 170 passes a patch and score: too slow to write down in advance.
KERNEL_ONLY = ("integrated_gradients", "occlusion")

ANY = "-"  # in a request, the score of a method that knows none


# --- what may be asked ---------------------------------------------------------------------------


def page_requests(net):
    """list of (kind, detail …), the maps that a page without a kernel holds of one network."""
    requests = []
    for method in methods_for(net):
        if method not in KERNEL_ONLY and method != "attention":
            requests += [("map", method, target) for target in targets_of(method)]
    if net.layers:
        requests.append(("attention",))
        requests += [("tokens", str(layer), "mean") for layer in range(net.layers)]
    return requests


def targets_of(method):
    """tuple of what a method's map may explain; one dash for a method that knows no score."""
    parameters = inspect.signature(METHODS[method].function).parameters
    if parameters["score"].default is None:
        return (ANY,)
    return (*map(str, range(len(SCORES))), "expected", *CUTS)


def method_label(method):
    """str, what a menu says for a method."""
    plain = method.replace("_", " ")
    if METHODS[method].null:
        return f"{plain} (null)"
    name, colon, _ = METHODS[method].caption.partition(":")
    if colon:
        return name
    return plain.capitalize()


# --- answers -------------------------------------------------------------------------------------


def compute_maps(net, x, kind, *details, map_px):
    """(B,n,h,w) what one request asks of a network at a batch (B,3,H,W)."""
    if kind == "map":
        return explaining_map(net, x, *details, map_px=map_px)
    if kind == "tokens":
        return token_attention(net, x, *details)
    return cls_attention(net, x)


def explaining_map(net, x, method, target, *, map_px):
    """(B,1,h,w) signed, unscaled maps of one method, averaged to at most map_px across."""
    maps = METHODS[method].function(net, x, _score_to_explain(target))[:, None].float()
    if maps.shape[-1] > map_px:
        maps = F.adaptive_avg_pool2d(maps, map_px)
    return maps


def cls_attention(net, x):
    """(B,layers*heads,h,w) attention from the token that the logits read, to every patch token."""
    maps = []
    for attention in _attention_by_patch(net, x, range(net.layers)):  # (layers,heads,T,T)
        # Without a CLS token the logits read the mean of all tokens.
        rows = attention[:, :, 0, net.prefix_tokens :] if net.prefix_tokens else attention.mean(2)
        maps.append(rows.reshape(-1, *net.grid))  # (layers,heads,h*w) -> (layers*heads,h,w)
    return torch.stack(maps)


def token_attention(net, x, layer, head):
    """(B,h*w,h,w) attention from every patch token in one layer; head "mean" or a number from 0."""
    maps = []
    for attention in _attention_by_patch(net, x, [int(layer)]):  # (1,heads,T,T)
        rows = attention[0].mean(0) if head == "mean" else attention[0, int(head)]
        rows = rows[net.prefix_tokens :, net.prefix_tokens :]
        maps.append(rows.reshape(-1, *net.grid))  # (h*w,h*w) -> (h*w,h,w)
    return torch.stack(maps)


def quantise(maps):
    """(header, bytes) of (n,h,w) maps as uint8, each between its own lowest and highest value.

    The header holds the shape and, for every map, those two values to five digits.
    """
    maps = np.asarray(maps.cpu(), np.float32)
    low = maps.min((1, 2))
    high = maps.max((1, 2))
    span = np.where(high > low, high - low, 1)[:, None, None]
    quantised = np.rint((maps - low[:, None, None]) / span * 255).astype(np.uint8)
    header = {"shape": list(maps.shape), "low": _five_digits(low), "high": _five_digits(high)}
    return header, quantised.tobytes()


# --- helpers -------------------------------------------------------------------------------------


def _score_to_explain(target):
    """What a map method takes as score: 0..3, "expected", a cut, or None."""
    if target == ANY:
        return None
    if target.isdigit():
        return int(target)
    return target


def _attention_by_patch(net, x, layers):
    """Yields the attention (len(layers),heads,T,T) of each patch of a batch, in order."""
    for piece in input_pieces(net, x):
        with looking(net, gradients=False):
            attention = net.tap(x[piece], attention=layers).attention
        yield from torch.stack([attention[layer] for layer in layers], 1)


def _five_digits(values):
    return [float(f"{value:.5g}") for value in values]
