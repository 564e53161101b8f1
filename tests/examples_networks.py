"""Inputs that the tests of networks share: patches that are easy to score, and small networks."""

import numpy as np
import torch

from her2lib.data.patches import Patches
from her2lib.networks import models

FAST = {"progress": False, "device": "cpu"}
# Columns of history that no two trainings share.
SECONDS = ["seconds", "train_seconds"]
# A tenth of the work.
THIN = {
    "resnet18": {"channels": (16, 24, 32, 48)},
    "vit_tiny": {"embed_dim": 96, "depth": 4},
}
# Red, green and blue of a patch of each score: ever browner.
BROWN = [[230, 200, 180], [210, 170, 130], [180, 130, 90], [120, 70, 40]]


def toy(n=24, side_px=32, seed=0):
    """Patches whose score is how brown they are, under noise."""
    score = np.arange(n) % 4
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(-30, 30, (n, 3, side_px, side_px), generator=generator)
    brown = torch.tensor(BROWN)[torch.as_tensor(score)]
    images = (brown[:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return Patches(
        images=images,
        score=score,
        slide=np.array([f"slide{i // 4}" for i in range(n)], object),
        patient=np.full(n, "", object),
        name=np.array([f"patch{i}" for i in range(n)], object),
        mpp=np.full(n, 0.5),
    )


def small(network="resnet18", seed=0, **options):
    """Net for patches of 32 px, random by seed and thin."""
    options = {**THIN.get(network, {}), **options}
    return models.create(network, side_px=32, weights="none", seed=seed, **options)


def random_images(n, side_px, seed=0):
    """(n,3,side_px,side_px) uint8 noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 3, side_px, side_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
