"""What a recipe is: every knob of a training in one dictionary, as the study presented it and as the literature would tune it."""

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler

from her2lib.files import did_you_mean
from her2lib.networks.models import BACKBONES, rebuild

# warmup: share of all updates; score_weights: rare scores weigh more; balanced: rare scores come
# more often;
DEFAULTS = dict(
    # prior: logit adjustment; stain: spread of the jitter; patience: epochs without a better
    # validation kappa
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.01,
    batch=32,
    epochs=20,
    schedule="constant",
    warmup=0.0,
    layer_decay=None,
    loss="cross_entropy",
    smoothing=0.0,
    score_weights=False,
    prior=False,
    balanced=False,
    dropout=0.0,
    drop_path=0.0,
    ema=0.0,
    flips=False,
    stain=0.0,
    mixup=0.0,
    clip=None,
    patience=None,
    keep="last",
    precision="auto",
    compile=False,
)
CHOICES = dict(
    optimizer=("adamw", "adam", "sgd"),
    schedule=("constant", "cosine"),
    loss=("cross_entropy", "ordinal"),
    keep=("last", "best"),
    precision=("auto", "float32", "bfloat16"),
)
_TUNED = dict(
    lr=3e-4,
    weight_decay=0.05,
    schedule="cosine",
    warmup=0.1,
    layer_decay=0.8,
    smoothing=0.05,
    score_weights=True,
    dropout=0.1,
    ema=0.99,
    flips=True,
    stain=0.1,
    mixup=0.1,
    clip=1.0,
    keep="best",
)
RECIPES = {
    "as_presented": {},  # AdamW 1e-3, batch 32, cross entropy, 20 epochs: DEFAULTS are the study's
    "tuned": _TUNED,
    "ordinal": {**_TUNED, "loss": "ordinal", "smoothing": 0.0},
}
# the study's own list against an unstable validation curve, each alone; "more data" is the axis
# n_train
REMEDIES = {
    "lower_lr": dict(lr=1e-4),
    "schedule": dict(schedule="cosine", warmup=0.1),
    "sgd": dict(optimizer="sgd", lr=1e-2),
    "dropout": dict(dropout=0.2),
    "weight_decay": dict(weight_decay=0.1),
    "augmentation": dict(flips=True, stain=0.1),
    "balanced": dict(balanced=True),
}
_VIT = dict(
    lr=1e-4, layer_decay=0.7, drop_path=0.1
)  # MAE's 6e-5 at batch 32 and DeiT's 5e-6 stand on either side
FOR_NETWORK = {  # what differs from RECIPES
    # the study names Adam, 1e-3 and "a scheduler" for the ViT: cosine is our guess
    ("as_presented", "vit_b16"): dict(optimizer="adam", weight_decay=0.0, schedule="cosine"),
    ("as_presented", "vit_tiny"): dict(optimizer="adam", weight_decay=0.0, schedule="cosine"),
    # the study gives the hybrid no recipe: it gets the CNNs'
    **{
        (name, network): change
        for name in ("tuned", "ordinal")
        for network, change in dict(
            densenet201=dict(
                layer_decay=0.98
            ),  # timm counts 99 layers: 0.8 would leave the first a rate of 1e-13
            vit_b16=_VIT,
            vit_tiny=_VIT,
            hybrid=dict(lr=2e-4, drop_path=0.1),
        ).items()
    },
}


def recipe(name, *, network, **overrides):
    """dict of every keyword argument of fit for this network; "as_presented+dropout@1e-4" is a recipe, a remedy and a rate."""
    name, own = _named(name)
    if network not in BACKBONES:
        raise ValueError(
            f"{network!r} is not a network of this study.{did_you_mean(network, BACKBONES)}"
        )
    return complete_recipe(
        {**RECIPES[name], **FOR_NETWORK.get((name, network), {}), **overrides, **own}
    )


def choose_device():
    """str, the fastest device of this machine: cuda, mps or cpu."""
    return (
        "cuda"
        if torch.cuda.is_available()
        else "mps"
        if torch.backends.mps.is_available()
        else "cpu"
    )


def choose_precision(device, wanted="auto"):
    """(torch dtype of the training steps, the reason as a sentence)."""
    if wanted != "auto":
        return getattr(torch, wanted), f"{wanted}: the recipe asks for it"
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, f"bfloat16: {torch.cuda.get_device_name(device)} has it"
    if kind == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    ):
        return (
            torch.bfloat16,
            "bfloat16: this CPU has AMX or AVX512-BF16",
        )  # ResNet18, a core: 8.5 against 4.4 patches/s
    return (
        torch.float32,
        f"float32: this {kind} has no bfloat16 arithmetic, which it could only emulate more slowly",
    )


def complete_recipe(given):
    """dict of every key of a recipe; an unknown key or choice is refused with the nearest right one."""
    for key in given.keys() - DEFAULTS.keys():
        raise ValueError(f"{key!r} is not a key of a recipe.{did_you_mean(key, DEFAULTS)}")
    for key, words in CHOICES.items():
        if given.get(key, words[0]) not in words:
            raise ValueError(f"{key}={given[key]!r} is not known.{did_you_mean(given[key], words)}")
    return {**DEFAULTS, **given}


def optimizer(net, settings, steps):
    """(optimizer, schedule) from timm; the schedule counts updates and keeps no state, so a resumed run needs nothing of it."""
    words = dict(
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        layer_decay=settings["layer_decay"],
    )
    made = create_optimizer_v2(net.backbone, settings["optimizer"], **words)
    total = settings["epochs"] * steps + 1  # + 1: the last update is not one of rate 0
    warm = dict(warmup_t=round(settings["warmup"] * total), warmup_lr_init=0.0, t_in_epochs=False)
    if settings["schedule"] == "cosine":
        return made, CosineLRScheduler(made, t_initial=total, **warm)
    return made, StepLRScheduler(made, decay_t=total, **warm)


def _named(written):
    """(recipe, changes) of recipe[+remedy …][@learning rate]; what the name of a run says goes before what its study says."""
    name, _, rate = written.partition("@")
    name, *remedies = name.split("+")
    for word, words, kind in [
        (name, RECIPES, "recipe"),
        *((remedy, REMEDIES, "remedy") for remedy in remedies),
    ]:
        if word not in words:
            raise ValueError(f"{word!r} is not a {kind}.{did_you_mean(word, words)}")
    changes = {key: value for remedy in remedies for key, value in REMEDIES[remedy].items()}
    try:
        return name, changes | ({"lr": float(rate)} if rate else {})
    except ValueError as error:
        raise ValueError(
            f"{written!r}: a learning rate is a number, such as {name}@1e-4."
        ) from error


def regularised(net, settings):
    """Net, a copy with the dropout and drop path of the recipe."""
    options = dict(drop_rate=settings["dropout"])
    if settings["drop_path"] and net.network == "densenet201":
        raise ValueError("densenet201 has no drop path: set drop_path=0 and use dropout.")
    if settings["drop_path"]:
        options["drop_path_rate"] = settings["drop_path"]
    return rebuild(net, **options)


def criterion(settings, score, scores, device):
    """function of (logits, shares), both (B,scores), -> loss; shares are soft scores, as mixup and smoothing make them."""
    count = torch.bincount(score, minlength=scores).clamp(min=1).float()
    weight = (
        len(score) / count / len(score.unique())
        if settings["score_weights"]
        else torch.ones(scores)
    )
    prior = (
        (count / count.sum()).log() if settings["prior"] else torch.zeros(scores)
    )  # logit adjustment (Menon 2021)
    weight, prior = weight.to(device), prior.to(device)
    loss = (
        _ordinal
        if settings["loss"] == "ordinal"
        else lambda logits, shares: -(shares * logits.log_softmax(1)).sum(1)
    )

    def criterion(logits, shares):
        smooth = shares * (1 - settings["smoothing"]) + settings["smoothing"] / scores
        return (loss(logits + prior, smooth) * (shares * weight).sum(1)).mean()

    return criterion


def _ordinal(logits, shares):
    """(B,) binary cross entropy summed over the clinical cuts, from the same four logits as any other recipe."""
    log_share, total = logits.log_softmax(1), 0.0
    for cut in range(1, logits.shape[1]):
        above = shares[:, cut:].sum(1)
        total = (
            total
            - above * log_share[:, cut:].logsumexp(1)
            - (1 - above) * log_share[:, :cut].logsumexp(1)
        )
    return total
