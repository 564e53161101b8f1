"""The networks of the study under one contract: forward is fast, tap hands over the insides."""

import math
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch
from timm.layers import HybridEmbed
from timm.models import VisionTransformer
from torch import nn

from her2lib.files import did_you_mean
from her2lib.networks.weights import from_hub, load_weights, read_weights

# timm's names, with the tag of the ImageNet weights.
BACKBONES = {
    # torchvision's own weights: what "ImageNet-pretrained ResNet18" means in most studies.
    "resnet18": "resnet18.tv_in1k",
    "densenet201": "densenet201.tv_in1k",
    "vit_b16": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    # The convolutional half; the transformer half is new.
    "hybrid": "resnet18.tv_in1k",
    # Stands in for vit_b16 on CPUs.
    "vit_tiny": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
}
# Every CNN here halves the side five times before its last convolutional map.
CNN_STEP_PX = 32


class HasImages(Protocol):
    """Patches, or anything else that holds pixels as `images`."""

    @property
    def images(self) -> torch.Tensor:
        """(N,3,H,W) uint8."""


@dataclass(frozen=True)
class Tap:
    """What a network computed on the way to its logits, all of it differentiable.

    features: last convolutional map of a CNN, or the patch tokens ENTERING the last block of a
    transformer. stem: convolutional half of the hybrid, else None. attention: by layer as asked.
    """

    logits: torch.Tensor  # (B,scores)
    embedding: torch.Tensor  # (B,D)
    features: torch.Tensor  # (B,C,h,w)
    stem: torch.Tensor | None  # (B,C,h,w)
    attention: dict[int, torch.Tensor]  # (B,heads,T,T) after the softmax


# --- the network -------------------------------------------------------------------------------


class Net(nn.Module):
    """A timm backbone, one output per score; T = prefix_tokens + h*w tokens where layers > 0."""

    # A timm model: what it offers besides forward, nn.Module does not declare.
    backbone: Any
    _shift: torch.Tensor
    _scale: torch.Tensor

    def __init__(
        self, backbone: Any, config: dict[str, Any], pretrained_cfg: dict[str, Any]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = dict(config)
        self.network: str = config["network"]
        self.side_px: int = config["side_px"]
        self.mean = tuple(pretrained_cfg["mean"])
        self.std = tuple(pretrained_cfg["std"])
        for name, value in (("_shift", self.mean), ("_scale", self.std)):
            self.register_buffer(name, 255.0 * torch.tensor(value).view(3, 1, 1), persistent=False)
        self.layers = len(getattr(backbone, "blocks", ()))  # 0 in the CNNs
        self.prefix_tokens: int = getattr(backbone, "num_prefix_tokens", 0)
        if self.layers:
            self.heads = backbone.blocks[0].attn.num_heads
            self.grid = tuple(backbone.patch_embed.grid_size)
        else:
            cells = math.ceil(self.side_px / CNN_STEP_PX)
            self.heads = 0
            self.grid = (cells, cells)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,scores) logits of normalised (B,3,H,W), attention fused."""
        self._refuse_other_side(x)
        return self.backbone(x)

    def tap(self, x: torch.Tensor, attention: Iterable[int] = ()) -> Tap:
        """Tap of normalised (B,3,H,W), its logits computed FROM its features and attention maps.

        So logits can be differentiated by both. attention: layers, -1 the last; ValueError where
        there is none. Example: net.tap(x, attention=(-1,)).attention[-1] is (B,heads,T,T).
        """
        asked = tuple(attention)
        if not self.layers:
            if asked:
                raise ValueError(
                    f"{self.network} has no attention; ask vit_b16, vit_tiny or hybrid."
                )
            features = self.backbone.forward_features(x)
            return self._tap_from(features, features, None, {})
        self._refuse_other_side(x)
        with _unfused(self.backbone.blocks, asked) as maps:
            stem, tokens = self.tokens(x)
            tokens = self.backbone.blocks[:-1](tokens)
            prefix = tokens[:, : self.prefix_tokens]
            patches = tokens[:, self.prefix_tokens :]
            # (B,h*w,C) -> (B,C,h,w), and back
            features = patches.transpose(1, 2).reshape(len(x), -1, *self.grid)
            tokens = torch.cat([prefix, features.flatten(2).transpose(1, 2)], 1)
            last = self.backbone.norm(self.backbone.blocks[-1](tokens))
            return self._tap_from(last, features, stem, dict(maps))

    def after(self, features: torch.Tensor) -> torch.Tensor:
        """(B,scores) logits of a CNN's features (B,C,h,w)."""
        return self._tap_from(features, features, None, {}).logits

    def tokens(self, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """(stem (B,C,h,w) or None, tokens (B,T,C) entering the first block of a transformer)."""
        vit = self.backbone
        if isinstance(vit.patch_embed, HybridEmbed):
            stem = vit.patch_embed.backbone(x)[-1]
            # (B,C,h,w) -> (B,h*w,C)
            tokens = vit.patch_embed.proj(stem).flatten(2).transpose(1, 2)
        else:
            stem = None
            tokens = vit.patch_embed(x)
        return stem, vit.norm_pre(vit.patch_drop(vit._pos_embed(tokens)))

    def _tap_from(self, last, features, stem, attention):
        """Tap whose embedding and logits are those of the head after the last block."""
        embedding = self.backbone.forward_head(last, pre_logits=True)
        logits = self.backbone.get_classifier()(embedding)
        return Tap(logits, embedding, features, stem, attention)

    def _refuse_other_side(self, x):
        """None; a transformer has a position for each patch of its own side and of no other."""
        if self.layers and tuple(x.shape[-2:]) != (self.side_px, self.side_px):
            raise ValueError(
                f"{self.network} was created for side_px={self.side_px}, "
                f"not {tuple(x.shape[-2:])}: create it with that side_px; "
                "its position embedding is resampled."
            )


# --- making networks ---------------------------------------------------------------------------


def create(
    network: str,
    *,
    side_px: int,
    weights: str | Path = "imagenet",
    scores: int = 4,
    seed: int = 0,
    **options: Any,
) -> Net:
    """Net in evaluation mode, with one output per score.

    network: a name in BACKBONES. weights: "imagenet" (timm's hub), "none" (random, by seed) or a
    .safetensors or .pth file. options (drop_rate, ...) go to timm. ValueError for an unknown name
    or a side that does not fit, FileNotFoundError or OSError where the weights are missing.
    Example: create("resnet18", side_px=224).
    """
    _refuse_unknown_network(network, side_px)
    config = {
        "network": network,
        "side_px": side_px,
        "weights": str(weights),
        "scores": scores,
        "seed": seed,
        **options,
    }
    pretrained = weights == "imagenet"
    build = partial(_build_backbone, network, side_px, pretrained, num_classes=scores, **options)
    # The new head is random by seed, whatever ran before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if pretrained:
            backbone = from_hub(build, BACKBONES[network])
        else:
            backbone = build()
    pretrained_cfg: Any = timm.get_pretrained_cfg(BACKBONES[network])
    net = Net(backbone, config, pretrained_cfg.to_dict())
    if str(weights) not in ("imagenet", "none"):
        load_weights(net, read_weights(weights), Path(weights).name)
    return net.eval()


def rebuild(net: Net, **options: Any) -> Net:
    """Net, a copy with the same weights and other timm options (drop_rate, ...), on its device."""
    copy = create(**{**net.config, "weights": "none", **options})
    copy.load_state_dict(net.state_dict())
    copy.config["weights"] = net.config["weights"]
    return copy.to(next(net.parameters()).device).train(net.training)


def _refuse_unknown_network(network, side_px):
    """None; ValueError for a name that is none, or a side that its patches or steps do not fit."""
    if network not in BACKBONES:
        raise ValueError(
            f"{network!r} is not a network of this study.{did_you_mean(network, BACKBONES)}"
        )
    if side_px < 32 or (network.startswith("vit") and side_px % 16):
        raise ValueError(
            f"side_px={side_px} does not fit {network}: "
            "take a multiple of 16 from 32 px on, such as 224."
        )


def _build_backbone(network, side_px, pretrained, **options):
    """The timm model; the hybrid is a small transformer on the last map of a ResNet18."""
    name = BACKBONES[network]
    if network.startswith("vit"):
        options["img_size"] = side_px
    if network != "hybrid":
        return timm.create_model(name, pretrained=pretrained, **options)
    cnn = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=(4,))
    embed = partial(HybridEmbed, cnn)
    return VisionTransformer(
        side_px, 1, embed_dim=512, depth=4, num_heads=8, embed_layer=embed, **options
    )


# --- from pixels to network input --------------------------------------------------------------


def normalise(images: torch.Tensor, net: Net) -> torch.Tensor:
    """(B,3,H,W) float32 input of a uint8 tensor, with the mean and deviation of the net's weights.

    ValueError for anything but uint8: what is normalised already would be normalised twice.
    """
    if getattr(images, "dtype", None) != torch.uint8:
        raise ValueError(f"normalise takes a uint8 tensor (0 to 255), not {_kind_of(images)}.")
    return torch.sub(images.to(net._shift.device), net._shift).div_(net._scale)


def as_input(net: Net, images: torch.Tensor | np.ndarray | HasImages) -> torch.Tensor:
    """(N,3,H,W) float32 input of the network: uint8 images normalised, a float tensor as it is.

    images: uint8 tensor or array, or patches; a float tensor is taken as normalised already.
    ValueError for any other. Example: grad_cam(net, as_input(net, test[:8]), 2).
    """
    if isinstance(images, torch.Tensor) and images.is_floating_point():
        return images
    return normalise(uint8_images(images), net)


def uint8_images(images: torch.Tensor | np.ndarray | HasImages) -> torch.Tensor:
    """(N,3,H,W) uint8 tensor of a tensor, an array or patches; else a ValueError in a sentence."""
    pixels = getattr(images, "images", images)
    if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8:
        # torch reads neither negative strides nor memory that may not be written: those are copied.
        pixels = torch.from_numpy(np.require(pixels, requirements=("C", "W")))
    if not isinstance(pixels, torch.Tensor) or pixels.dtype != torch.uint8:
        raise ValueError(
            f"these are normalised or float images, or no images at all ({_kind_of(pixels)}): "
            "give the uint8 patches; predict normalises them itself."
        )
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(
            f"images of shape {tuple(pixels.shape)} are not (N,3,H,W): "
            "give a stack of RGB patches, channels before rows."
        )
    return pixels


def refuse_other_side(net: Net, images: torch.Tensor) -> None:
    """None; ValueError where images (N,3,H,W) have another side than the network was created for.

    A CNN would answer all the same, about tissue at a magnification that it never saw.
    """
    height, width = images.shape[-2:]
    if (height, width) != (net.side_px, net.side_px):
        raise ValueError(
            f"{net.network} was created for side_px={net.side_px} and these images are "
            f"{height} x {width} px: read the patches at side_px={net.side_px}, "
            "or create the network for their side."
        )


def _kind_of(images):
    """str, "a float32 tensor", "a float64 array" or "a list", for a sentence that refuses it."""
    if isinstance(images, torch.Tensor):
        return f"a {str(images.dtype).removeprefix('torch.')} tensor"
    if isinstance(images, np.ndarray):
        return f"a {images.dtype} array"
    return f"a {type(images).__name__}"


# --- attention that can be seen ----------------------------------------------------------------


@contextmanager
def _unfused(blocks, layers):
    """{layer: attention after the softmax}, filled by the forward that runs inside.

    Hooks and flags are put back, also after an error.
    """
    for layer in layers:
        if not -len(blocks) <= layer < len(blocks):
            raise ValueError(
                f"There is no layer {layer}: this network has layers 0 to {len(blocks) - 1}."
            )
    maps = {}
    handles = []
    fused_before = [block.attn.fused_attn for block in blocks]
    try:
        # The fused kernel never calls attn_drop: the layers asked for, and only these, go without.
        for layer in layers:
            attn = blocks[layer].attn
            attn.fused_attn = False
            record = partial(_record_attention, maps, layer)
            handles.append(attn.attn_drop.register_forward_pre_hook(record))
        yield maps
    finally:
        for handle in handles:
            handle.remove()
        for block, fused in zip(blocks, fused_before, strict=True):
            block.attn.fused_attn = fused


def _record_attention(maps, layer, module, inputs):
    """None; the attention that enters the dropout of a layer is written down."""
    maps[layer] = inputs[0]
