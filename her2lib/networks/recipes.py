"""What a recipe is: every knob of a training in one dictionary, as presented and as tuned."""

from collections.abc import Callable
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler

from her2lib.files import did_you_mean
from her2lib.networks.models import BACKBONES, Net, rebuild

# --- the dictionaries --------------------------------------------------------------------------

DEFAULTS: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "batch": 32,
    "epochs": 20,
    "schedule": "constant",
    # Fraction of all updates in which the rate rises.
    "warmup": 0.0,
    # Each layer below the head learns at this times the rate of the one above it.
    "layer_decay": None,
    "loss": "cross_entropy",
    "smoothing": 0.0,
    # Rare scores weigh more.
    "score_weights": False,
    # Logit adjustment (Menon 2021).
    "prior": False,
    # Rare scores come more often.
    "balanced": False,
    "dropout": 0.0,
    "drop_path": 0.0,
    # Decay of the running mean of the weights; 0: none is taken.
    "ema": 0.0,
    "flips": False,
    # Spread of the jitter of the stains.
    "stain": 0.0,
    "mixup": 0.0,
    "clip": None,
    # Epochs without a better validation kappa.
    "patience": None,
    "keep": "last",
    "precision": "auto",
    "compile": False,
}
CHOICES = {
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("constant", "cosine"),
    "loss": ("cross_entropy", "ordinal"),
    "keep": ("last", "best"),
    "precision": ("auto", "float32", "bfloat16"),
}
_TUNED = {
    "lr": 3e-4,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup": 0.1,
    "layer_decay": 0.8,
    "smoothing": 0.05,
    "score_weights": True,
    "dropout": 0.1,
    "ema": 0.99,
    "flips": True,
    "stain": 0.1,
    "mixup": 0.1,
    "clip": 1.0,
    "keep": "best",
}
RECIPES: dict[str, dict[str, Any]] = {
    # AdamW 1e-3, batch 32, cross entropy, 20 epochs: DEFAULTS are the study's.
    "as_presented": {},
    "tuned": _TUNED,
    "ordinal": {**_TUNED, "loss": "ordinal", "smoothing": 0.0},
}
# The study's own list against an unstable validation curve, each alone; "more data" is the axis
# n_train.
REMEDIES: dict[str, dict[str, Any]] = {
    "lower_lr": {"lr": 1e-4},
    "schedule": {"schedule": "cosine", "warmup": 0.1},
    "sgd": {"optimizer": "sgd", "lr": 1e-2},
    "dropout": {"dropout": 0.2},
    "weight_decay": {"weight_decay": 0.1},
    "augmentation": {"flips": True, "stain": 0.1},
    "balanced": {"balanced": True},
}
# The study names Adam, 1e-3 and "a scheduler" for the ViT: cosine is our guess.
_VIT_AS_PRESENTED = {"optimizer": "adam", "weight_decay": 0.0, "schedule": "cosine"}
# MAE's 6e-5 at batch 32 and DeiT's 5e-6 stand on either side of this rate.
_VIT_TUNED = {"lr": 1e-4, "layer_decay": 0.7, "drop_path": 0.1}
# timm counts 99 layers: a decay of 0.8 would leave the first a rate of 1e-13.
_DENSENET_TUNED = {"layer_decay": 0.98}
_HYBRID_TUNED = {"lr": 2e-4, "drop_path": 0.1}
# What differs from RECIPES; the study gives the hybrid no recipe: it gets that of the CNNs.
FOR_NETWORK: dict[tuple[str, str], dict[str, Any]] = {
    ("as_presented", "vit_b16"): _VIT_AS_PRESENTED,
    ("as_presented", "vit_tiny"): _VIT_AS_PRESENTED,
    ("tuned", "densenet201"): _DENSENET_TUNED,
    ("tuned", "vit_b16"): _VIT_TUNED,
    ("tuned", "vit_tiny"): _VIT_TUNED,
    ("tuned", "hybrid"): _HYBRID_TUNED,
    ("ordinal", "densenet201"): _DENSENET_TUNED,
    ("ordinal", "vit_b16"): _VIT_TUNED,
    ("ordinal", "vit_tiny"): _VIT_TUNED,
    ("ordinal", "hybrid"): _HYBRID_TUNED,
}

# --- from a name to settings -------------------------------------------------------------------


def recipe(name: str, *, network: str, **overrides: Any) -> dict[str, Any]:
    """dict of every keyword argument of a recipe for this network.

    name: one of RECIPES, with remedies and a learning rate if wanted, which win over overrides.
    ValueError for an unknown name, network, key or choice, with the nearest right one.
    Example: recipe("as_presented+dropout@1e-4", network="resnet18", epochs=5).
    """
    base, changes = _parse_recipe_name(name)
    if network not in BACKBONES:
        raise ValueError(
            f"{network!r} is not a network of this study.{did_you_mean(network, BACKBONES)}"
        )
    for_network = FOR_NETWORK.get((base, network), {})
    return complete_recipe({**RECIPES[base], **for_network, **overrides, **changes})


def complete_recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """dict of every key of a recipe; an unknown key or choice is refused, the nearest one named."""
    for key in settings.keys() - DEFAULTS.keys():
        raise ValueError(f"{key!r} is not a key of a recipe.{did_you_mean(key, DEFAULTS)}")
    for key, choices in CHOICES.items():
        if settings.get(key, choices[0]) not in choices:
            remedy = did_you_mean(settings[key], choices)
            raise ValueError(f"{key}={settings[key]!r} is not known.{remedy}")
    return {**DEFAULTS, **settings}


def _parse_recipe_name(text):
    """(recipe, changes) of recipe[+remedy …][@learning rate].

    What the name of a run says goes before what its study says.
    """
    name, _, rate = text.partition("@")
    name, *remedies = name.split("+")
    _refuse_unknown_name(name, RECIPES, "recipe")
    changes = {}
    for remedy in remedies:
        _refuse_unknown_name(remedy, REMEDIES, "remedy")
        changes |= REMEDIES[remedy]
    if rate:
        try:
            changes["lr"] = float(rate)
        except ValueError as error:
            raise ValueError(
                f"{text!r}: a learning rate is a number, such as {name}@1e-4."
            ) from error
    return name, changes


def _refuse_unknown_name(name, known, kind):
    if name not in known:
        raise ValueError(f"{name!r} is not a {kind}.{did_you_mean(name, known)}")


# --- what the machine decides ------------------------------------------------------------------


def choose_device() -> str:
    """str, the fastest device of this machine: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def choose_precision(device: str | torch.device, wanted: str = "auto") -> tuple[torch.dtype, str]:
    """(torch dtype of the training steps, the reason as a sentence)."""
    if wanted != "auto":
        return getattr(torch, wanted), f"{wanted}: the recipe asks for it"
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, f"bfloat16: {torch.cuda.get_device_name(device)} has it"
    # ResNet18 on one core: 8.5 patches/s in bfloat16 against 4.4.
    if kind == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    ):
        return torch.bfloat16, "bfloat16: this CPU has AMX or AVX512-BF16"
    return torch.float32, (
        f"float32: this {kind} has no bfloat16 arithmetic, which it could only emulate more slowly"
    )


# --- from settings to what trains --------------------------------------------------------------


def regularised(net: Net, settings: dict[str, Any]) -> Net:
    """Net, a copy with the dropout and drop path of the recipe."""
    if settings["drop_path"] and net.network == "densenet201":
        raise ValueError("densenet201 has no drop path: set drop_path=0 and use dropout.")
    options = {"drop_rate": settings["dropout"]}
    if settings["drop_path"]:
        options["drop_path_rate"] = settings["drop_path"]
    return rebuild(net, **options)


def optimizer(net: Net, settings: dict[str, Any], steps: int):
    """(optimizer, schedule) from timm, for epochs of so many steps.

    The schedule counts updates and keeps no state, so a resumed run needs nothing of it.
    """
    optimizer = create_optimizer_v2(
        net.backbone,
        settings["optimizer"],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        layer_decay=settings["layer_decay"],
    )
    # One more than there are, so that the last update is not one of rate 0.
    total = settings["epochs"] * steps + 1
    warmup = {
        "warmup_t": round(settings["warmup"] * total),
        "warmup_lr_init": 0.0,
        "t_in_epochs": False,
    }
    if settings["schedule"] == "cosine":
        return optimizer, CosineLRScheduler(optimizer, t_initial=total, **warmup)
    return optimizer, StepLRScheduler(optimizer, decay_t=total, **warmup)


def criterion(
    settings: dict[str, Any], score: torch.Tensor, scores: int, device: str | torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """function of (logits, soft labels), both (B,scores), -> loss, mean over the batch.

    score: (N,) of the training patches, which give weights and prior. Soft labels are what mixup
    and smoothing make of scores.
    """
    count = torch.bincount(score, minlength=scores).clamp(min=1).float()
    weight = torch.ones(scores)
    if settings["score_weights"]:
        weight = len(score) / count / len(score.unique())
    prior = torch.zeros(scores)
    if settings["prior"]:
        prior = (count / count.sum()).log()
    weight = weight.to(device)
    prior = prior.to(device)
    patch_loss = _cross_entropy
    if settings["loss"] == "ordinal":
        patch_loss = _ordinal

    def criterion(logits, soft_labels):
        smooth = soft_labels * (1 - settings["smoothing"]) + settings["smoothing"] / scores
        return (patch_loss(logits + prior, smooth) * (soft_labels * weight).sum(1)).mean()

    return criterion


def _cross_entropy(logits, soft_labels):
    """(B,) cross entropy."""
    return -(soft_labels * logits.log_softmax(1)).sum(1)


def _ordinal(logits, soft_labels):
    """(B,) binary cross entropy summed over the clinical cuts, from the logits of any recipe."""
    log_probabilities = logits.log_softmax(1)
    total = 0.0
    for cut in range(1, logits.shape[1]):
        above = soft_labels[:, cut:].sum(1)
        log_above = log_probabilities[:, cut:].logsumexp(1)
        log_below = log_probabilities[:, :cut].logsumexp(1)
        total = total - above * log_above - (1 - above) * log_below
    return total
