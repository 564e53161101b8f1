"""A network at one batch: maps of all its scores for one pass, as a page without a kernel needs."""

import torch

from her2lib.maps.inside import looking
from her2lib.networks.models import Tap

COPIED = ("network", "side_px", "layers", "heads", "grid", "prefix_tokens", "mean", "std")


class Tangent(torch.nn.Module):
    """A network at one batch: its insides there, and the slopes of its logits along them.

    Maps of all scores then cost one forward pass and four backward passes together, not one of
    each for every score and method.
    """

    def __init__(self, net, x):
        super().__init__()
        for name in COPIED:
            setattr(self, name, getattr(net, name))
        with looking(net, gradients=True):
            tap = net.tap(x.detach().clone().requires_grad_(), attention=range(net.layers))
            inside = {"features": tap.features, **tap.attention}
            if tap.stem is not None:
                inside["stem"] = tap.stem
            # One backward pass a score; the graph is freed with the last reference to the tap.
            slopes = [
                torch.autograd.grad(logit.sum(), list(inside.values()), retain_graph=True)
                for logit in tap.logits.T
            ]
        self.logits = tap.logits.detach()
        self.inside = {key: value.detach() for key, value in inside.items()}
        by_part = zip(*slopes, strict=True)
        self.slopes = {  # (4,B,...) each
            key: torch.stack(parts) for key, parts in zip(inside, by_part, strict=True)
        }

    def tap(self, x, attention=()):
        """Tap with the network's own insides; logits that have exactly the network's gradients."""
        keys = [key for key in ("features", "stem", *attention) if key in self.inside]
        gradients = torch.is_grad_enabled()
        leaves = {key: self.inside[key].clone().requires_grad_(gradients) for key in keys}
        return Tap(
            self._logits_at(leaves),
            None,
            leaves["features"],
            leaves.get("stem"),
            {layer: leaves[layer] for layer in attention},
        )

    def after(self, features):
        """(B,4) logits of a CNN's features, as Net.after."""
        return self._logits_at({"features": features})

    def _logits_at(self, leaves):
        """(B,4) logits, along straight lines from the network's own."""
        steps = [
            torch.einsum(
                "kbn,bn->bk", self.slopes[key].flatten(2), (leaf - self.inside[key]).flatten(1)
            )
            for key, leaf in leaves.items()
        ]
        return self.logits + sum(steps)
