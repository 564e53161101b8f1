"""The claims of the published study on where networks look, as statements that maps confirm or refute."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Claim:
    """What the study says, of which networks; values (B,) of what is measured, NaN where it does not apply, lie above or below 0."""

    text: str
    networks: tuple
    measured: str
    says: str
    values: np.ndarray


def claims(focused, *, right, farther, lost):
    """[Claim] of the study; focused: focus() with kind (network), method, null and patch; the others {kind: (B,) by patch}."""
    table = focused.set_index(["kind", "method", "null", "patch"])[
        ["edge_share", "share_tumour", "entropy"]
    ].sort_index()
    unknown = np.full(focused["patch"].nunique(), math.nan)

    def of(kind, method, column, null=False):
        return (
            table.loc[(kind, method, null), column].to_numpy()
            if (kind, method, null) in table.index
            else unknown
        )

    def beyond(kind, method, column):
        return of(kind, method, column) - of(kind, method, column, null=True)

    cam, follow, cnn, vit, hybrid = "grad_cam", "relevance", "resnet18", "vit", "hybrid"
    good = np.asarray(right.get(cnn, unknown), float)  # NaN where there is no ResNet18
    edge, tumour, less = (
        "edge share less its null",
        "share on tumour less its null",
        "scatter (entropy) less that of the other",
    )
    return [
        Claim(
            "ResNet18, right: looks at the tumour's edge and ignores its centre",
            (cnn,),
            edge,
            "above",
            np.where(good == 1, beyond(cnn, cam, "edge_share"), math.nan),
        ),
        Claim(
            "ResNet18, wrong: ignored the tumour",
            (cnn,),
            tumour,
            "below",
            np.where(good == 0, beyond(cnn, cam, "share_tumour"), math.nan),
        ),
        Claim(
            "ViT loses focus, looks at background",
            (vit,),
            tumour,
            "below",
            beyond(vit, follow, "share_tumour"),
        ),
        Claim(
            "ViT is scattered (against ResNet18, Grad-CAM of both)",
            (vit, cnn),
            less,
            "above",
            of(vit, cam, "entropy") - of(cnn, cam, "entropy"),
        ),
        Claim(
            "Hybrid is less scattered than ViT (relevance of both)",
            (hybrid, vit),
            less,
            "below",
            of(hybrid, follow, "entropy") - of(vit, follow, "entropy"),
        ),
        Claim(
            "Hybrid looks at edges again",
            (hybrid,),
            edge,
            "above",
            beyond(hybrid, follow, "edge_share"),
        ),
        Claim(
            "ViT looks far away from its earliest layer on",
            (vit,),
            "attention distance, px, of layer 1 less untrained",
            "above",
            farther.get(vit, unknown),
        ),
        Claim(
            "Convolution keeps position (against ViT)",
            (cnn, vit),
            "accuracy lost by shuffled tiles less ViT's loss",
            "above",
            lost.get(cnn, unknown) - lost.get(vit, unknown),
        ),
        Claim(
            "Convolution keeps position: the hybrid (against ViT)",
            (hybrid, vit),
            "accuracy lost by shuffled tiles less ViT's loss",
            "above",
            lost.get(hybrid, unknown) - lost.get(vit, unknown),
        ),
    ]
