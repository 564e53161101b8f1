"""The networks of the study under one contract: forward is fast, tap hands over the insides."""

import math
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm
import torch
from timm.layers import HybridEmbed
from timm.models import VisionTransformer
from torch import nn

from her2lib.files import did_you_mean
from her2lib.networks import weights as weights_

BACKBONES = {  # timm's names with the tag of the ImageNet weights
    # torchvision's own, what "ImageNet-pretrained ResNet18" means in most studies
    "resnet18": "resnet18.tv_in1k",
    "densenet201": "densenet201.tv_in1k",
    "vit_b16": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "hybrid": "resnet18.tv_in1k",  # the convolutional half; the transformer half is new
    "vit_tiny": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",  # stands in for vit_b16 on CPUs
}


@dataclass(frozen=True)
class Tap:
    """logits (B,4), embedding (B,D), features (B,C,h,w), stem (B,C,h,w) or None, attention {layer as asked: (B,heads,T,T)}."""

    logits: torch.Tensor
    embedding: torch.Tensor
    features: torch.Tensor
    stem: torch.Tensor | None
    attention: dict


class Net(nn.Module):
    """A timm backbone with one output per score; T = prefix_tokens + h*w tokens where layers > 0."""

    def __init__(self, backbone, config, pretrained_cfg):
        super().__init__()
        self.backbone, self.config = backbone, dict(config)
        self.network, self.side_px = config["network"], config["side_px"]
        self.mean, self.std = tuple(pretrained_cfg["mean"]), tuple(pretrained_cfg["std"])
        for name, value in (("_shift", self.mean), ("_scale", self.std)):
            self.register_buffer(name, 255.0 * torch.tensor(value).view(3, 1, 1), persistent=False)
        self.layers = len(getattr(backbone, "blocks", ()))  # 0 for the CNNs
        self.heads = backbone.blocks[0].attn.num_heads if self.layers else 0
        self.prefix_tokens = getattr(backbone, "num_prefix_tokens", 0)
        self.grid = (
            tuple(backbone.patch_embed.grid_size)
            if self.layers
            else (math.ceil(self.side_px / 32),) * 2
        )

    def forward(self, x):
        """(B,scores) logits of normalised (B,3,H,W), attention fused."""
        return self.backbone(self._checked(x))

    def tap(self, x, attention=()):
        """Tap whose logits are computed FROM its features and attention maps, so both can be differentiated."""
        if not self.layers:
            if tuple(attention):
                raise ValueError(
                    f"{self.network} has no attention; ask vit_b16, vit_tiny or hybrid."
                )
            features = self.backbone.forward_features(x)
            return self._headed(features, features, None, {})
        with _unfused(self.backbone.blocks, tuple(attention)) as seen:
            stem, tokens = self.tokens(self._checked(x))
            tokens = self.backbone.blocks[:-1](tokens)
            prefix, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
            features = patches.transpose(1, 2).reshape(
                len(x), -1, *self.grid
            )  # (B,h*w,C) -> (B,C,h,w)
            tokens = torch.cat([prefix, features.flatten(2).transpose(1, 2)], 1)
            last = self.backbone.norm(self.backbone.blocks[-1](tokens))
            return self._headed(last, features, stem, dict(seen))

    def after(self, features):
        """(B,scores) logits of a CNN's features (B,C,h,w)."""
        return self._headed(features, features, None, {}).logits

    def tokens(self, x):
        """(stem (B,C,h,w) or None, tokens (B,T,C) entering the first block of a transformer)."""
        vit, stem = self.backbone, None
        if isinstance(vit.patch_embed, HybridEmbed):
            stem = vit.patch_embed.backbone(x)[-1]
            tokens = vit.patch_embed.proj(stem).flatten(2).transpose(1, 2)  # (B,C,h,w) -> (B,h*w,C)
        else:
            tokens = vit.patch_embed(x)
        return stem, vit.norm_pre(vit.patch_drop(vit._pos_embed(tokens)))

    def _headed(self, last, features, stem, attention):
        embedding = self.backbone.forward_head(last, pre_logits=True)
        return Tap(self.backbone.get_classifier()(embedding), embedding, features, stem, attention)

    def _checked(self, x):
        if self.layers and tuple(x.shape[-2:]) != (self.side_px, self.side_px):
            raise ValueError(
                f"{self.network} was created for side_px={self.side_px}, not {tuple(x.shape[-2:])}: "
                "create it with that side_px; its position embedding is resampled."
            )
        return x


def create(network, *, side_px, weights="imagenet", scores=4, seed=0, **options):
    """Net with weights "imagenet" (timm's hub), "none" (random, by seed) or a file; options (drop_rate, ...) go to timm."""
    if network not in BACKBONES:
        raise ValueError(
            f"{network!r} is not a network of this study.{did_you_mean(network, BACKBONES)}"
        )
    if side_px < 32 or (network.startswith("vit") and side_px % 16):
        raise ValueError(
            f"side_px={side_px} does not fit {network}: take a multiple of 16 from 32 px on, such as 224."
        )
    config = dict(
        network=network, side_px=side_px, weights=str(weights), scores=scores, seed=seed, **options
    )
    build = partial(_build, network, side_px, weights == "imagenet", num_classes=scores, **options)
    with torch.random.fork_rng(devices=[]):  # the new head is random by seed, whatever ran before
        torch.manual_seed(seed)
        backbone = (
            weights_.from_hub(build, BACKBONES[network]) if weights == "imagenet" else build()
        )
    net = Net(backbone, config, timm.get_pretrained_cfg(BACKBONES[network]).to_dict())
    if str(weights) not in ("imagenet", "none"):
        weights_.load_weights(net, weights_.read_weights(weights), Path(weights).name)
    return net.eval()


def rebuild(net, **options):
    """Net, a copy with the same weights and other timm options (drop_rate, drop_path_rate), on the same device."""
    copy = create(**{**net.config, "weights": "none", **options})
    copy.load_state_dict(net.state_dict())
    copy.config["weights"] = net.config["weights"]
    return copy.to(next(net.parameters()).device).train(net.training)


def normalise(images, net):
    """(B,3,H,W) float32 network input of uint8 images, with the mean and deviation of the net's own weights."""
    return torch.sub(images.to(net._shift.device), net._shift).div_(net._scale)


def _build(network, side_px, pretrained, **options):
    if network != "hybrid":
        size = dict(img_size=side_px) if network.startswith("vit") else {}
        return timm.create_model(BACKBONES[network], pretrained=pretrained, **size, **options)
    cnn = timm.create_model(
        BACKBONES[network], pretrained=pretrained, features_only=True, out_indices=(4,)
    )
    embed = partial(HybridEmbed, cnn)
    return VisionTransformer(
        side_px, 1, embed_dim=512, depth=4, num_heads=8, embed_layer=embed, **options
    )


@contextmanager
def _unfused(blocks, layers):
    """{layer: attention after the softmax}, filled by the forward inside; hooks and flags are put back, also after an error."""
    seen, handles, fused = {}, [], [block.attn.fused_attn for block in blocks]
    wrong = [layer for layer in layers if not -len(blocks) <= layer < len(blocks)]
    if wrong:
        raise ValueError(
            f"There is no layer {wrong[0]}: this network has layers 0 to {len(blocks) - 1}."
        )
    try:
        for (
            layer
        ) in layers:  # the fused kernel never calls attn_drop, so only these layers are unfused
            blocks[layer].attn.fused_attn = False
            keep = lambda _, args, layer=layer: seen.__setitem__(layer, args[0])  # noqa: E731
            handles.append(blocks[layer].attn.attn_drop.register_forward_pre_hook(keep))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for block, was in zip(blocks, fused, strict=True):
            block.attn.fused_attn = was
