"""The networks of the study under one contract: forward is fast, tap hands over the insides; and the frozen-feature probe."""

import hashlib
import io
import math
import pickle
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import timm
import torch
from huggingface_hub import constants as hub
from safetensors import SafetensorError
from safetensors.torch import load_file
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.layers import HybridEmbed, resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import nn
from torchvision.transforms.v2 import functional as tv
from tqdm.auto import tqdm

from her2lib.scores import SCORES, nearest
from her2lib.study import write_bytes

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
            f"{network!r} is not a network of this study.{nearest(network, BACKBONES)}"
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
        backbone = _from_hub(build, BACKBONES[network]) if weights == "imagenet" else build()
    net = Net(backbone, config, timm.get_pretrained_cfg(BACKBONES[network]).to_dict())
    if str(weights) not in ("imagenet", "none"):
        _load(net, read_weights(weights), Path(weights).name)
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


def read_weights(path):
    """{name: tensor} of a .safetensors file, or of a .pth that holds tensors and nothing that runs."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is not a weights file: give a .safetensors or .pth file, "imagenet" or "none".'
        )
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path.name} was refused: damaged, or more than weights; save it as .safetensors."
        ) from error
    state = next(
        (state[k] for k in ("state_dict", "model") if isinstance(state, dict) and k in state), state
    )
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(
            f"{path.name} holds no table of named weights; save model.state_dict() as .safetensors."
        )
    return state


def probe(name, images, *, folder, weights="imagenet", batch=32, seed=0, progress=True, **options):
    """(N,D) float32 frozen features of any timm encoder under its own mean and deviation, computed once and kept in folder."""
    key = hashlib.sha256(
        f"{name}|{weights}|{seed}|{sorted(options.items())}|{tuple(images.shape)}".encode()
    )
    key.update(np.ascontiguousarray(images))
    path = Path(folder) / f"probe-{key.hexdigest()[:24]}.npy"
    if not path.exists():
        features = _encode(_encoder(name, weights, seed, options), images, batch, progress)
        np.save(buffer := io.BytesIO(), features)
        write_bytes(path, buffer.getvalue())
    return np.load(path)


def probe_head(features, score, *, head="logistic", C=0.1):
    """function of (M,D) features -> (M,4) probabilities: "logistic", or "ordinal", one per clinical cut (Frank & Hall 2001)."""
    if head not in ("logistic", "ordinal"):
        raise ValueError(
            f"{head!r} is not a head of the probe.{nearest(head, ('logistic', 'ordinal'))}"
        )
    score, fit = np.asarray(score), partial(_logistic, features, C=C)
    if head == "logistic":
        return partial(_columns, fit(score))
    above = [fit(score > cut) for cut in range(len(SCORES) - 1)]
    return partial(_differences, above)


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


def _from_hub(build, name):
    offline = hub.HF_HUB_OFFLINE
    try:  # one look first: timm retries a dead line for 57 s [measured]
        offline or urlopen(Request(hub.ENDPOINT, method="HEAD"), timeout=5).close()
    except OSError as error:
        hub.HF_HUB_OFFLINE = not isinstance(error, HTTPError)  # an HTTP error is an answer
    try:
        return build()
    except OSError as error:
        raise OSError(
            f"The pretrained weights of {name} are not in the cache folder {hub.HF_HUB_CACHE} and {hub.ENDPOINT} did "
            "not give them: copy that folder from a connected machine (log in first, for a gated encoder), "
            'or give weights="FILE.safetensors", or weights="none" for random ones.'
        ) from error
    finally:
        hub.HF_HUB_OFFLINE = offline


def _load(net, state, origin):
    own = net.state_dict()
    inside = (
        "",
        "backbone.",
        "backbone.patch_embed.backbone.",
    )  # saved here, by timm, or a CNN for the hybrid
    prefix = next((p for p in inside if any(p + name in own for name in state)), None)
    if prefix is None:
        raise ValueError(
            f"{origin} holds no weights of {net.network}; its first is {next(iter(state), 'nothing')!r}."
        )
    state = {prefix + name: value for name, value in state.items()}
    if prefix:
        state = _foreign(net, state, own, prefix, origin)
    for name, value in own.items():
        if (
            name not in state
            and name.startswith(prefix)
            and not name.endswith("num_batches_tracked")
        ):
            raise ValueError(f"{origin} does not fit {net.network}: it lacks {name}.")
        if name in state and state[name].shape != value.shape:
            raise ValueError(
                f"{origin} does not fit {net.network}: {name} is {tuple(state[name].shape)} in the file "
                f"and {tuple(value.shape)} in the network."
            )
    net.load_state_dict(own | {name: value for name, value in state.items() if name in own})


def _foreign(net, state, own, prefix, origin):
    """{name: tensor} of a backbone file: another head is left out, positions are resampled to this grid."""
    head = (
        prefix + net.backbone.pretrained_cfg["classifier"]
        if prefix == "backbone." and net.network != "hybrid"
        else "-"
    )
    if f"{head}.weight" in state and state[f"{head}.weight"].shape != own[f"{head}.weight"].shape:
        outputs = len(state[f"{head}.weight"])
        warnings.warn(
            f"{origin}: its head of {outputs} outputs is left out, the new head is untrained.",
            stacklevel=4,
        )
        state |= {f"{head}.{part}": own[f"{head}.{part}"] for part in ("weight", "bias")}
    place = "backbone.pos_embed"
    if place in state and place in own:
        state[place] = resample_abs_pos_embed(
            state[place], list(net.grid), num_prefix_tokens=net.prefix_tokens
        )
    return state


def _encoder(name, weights, seed, options):
    if weights not in ("imagenet", "none"):
        raise ValueError(
            f'weights={weights!r}: a probe takes its encoder\'s own weights ("imagenet") or "none".'
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = partial(
            timm.create_model, name, pretrained=weights == "imagenet", num_classes=0, **options
        )
        return (_from_hub(build, name) if weights == "imagenet" else build()).eval()


@torch.inference_mode()
def _encode(encoder, images, batch, progress):
    settings = timm.data.resolve_model_data_config(encoder)
    side, (mean, std) = settings["input_size"][-1], (settings["mean"], settings["std"])
    rows = []
    for start in tqdm(range(0, len(images), batch), desc="encoding", disable=not progress):
        x = tv.resize(images[start : start + batch], [side, side], antialias=True)
        rows.append(
            encoder(tv.normalize(tv.to_dtype(x, torch.float32, scale=True), mean, std)).numpy()
        )
    return np.concatenate(rows)


def _logistic(features, score, *, C):
    more = len(set(score)) > 1
    answer = (
        LogisticRegression(C=C, max_iter=2000, class_weight="balanced")
        if more
        else DummyClassifier()
    )
    return make_pipeline(StandardScaler(), answer).fit(features, score)


def _columns(fitted, features):
    """(M,4) probabilities, 0 for a score that training never saw."""
    table = np.zeros((len(features), len(SCORES)), np.float32)
    table[:, fitted.classes_] = fitted.predict_proba(features)
    return table


def _differences(above, features):
    """(M,4) score probabilities from those of lying above each clinical cut, which may not rise from cut to cut."""
    steps = np.stack(
        [fitted.predict_proba(features) @ fitted.classes_ for fitted in above], 1
    )  # classes_ are False, True
    steps = np.minimum.accumulate(steps, axis=1)
    return -np.diff(np.pad(steps, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))).astype(
        np.float32
    )
