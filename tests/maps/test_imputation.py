"""Imputation against pytorch-grad-cam, a ramp it must continue, and itself in small pieces."""

import pytest
import torch
import torch.nn.functional as F

from her2lib.maps import imputation


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def hidden_pixels(kind, share, side_px):
    modes = {"hills": "bilinear", "cells": "nearest", "pixels": "nearest"}
    cells = {"hills": 5, "cells": 5, "pixels": side_px}[kind]
    coarse = noise(2, 1, cells, cells, seed=2)
    values = F.interpolate(coarse, (side_px, side_px), mode=modes[kind])[:, 0]
    return values > values.flatten(1).quantile(1 - share, dim=1)[:, None, None]


@pytest.mark.parametrize("side_px", [64, 75])
@pytest.mark.parametrize("kind", ["hills", "cells", "pixels"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_imputed_pixels_equal_pytorch_grad_cams_within_one_grey_level(side_px, kind, share):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    images = noise(2, 3, side_px, side_px)
    hidden = hidden_pixels(kind, share, side_px)
    peer = torch.stack(
        [
            road.NoisyLinearImputer(noise=0)(i, (~h).float())
            for i, h in zip(images, hidden, strict=True)
        ]
    )
    imputed = imputation.impute(images, hidden)
    assert (imputed - peer).abs().max() <= 1 / 255
    assert torch.equal(
        imputed.where(~hidden[:, None], torch.zeros(())),
        images.where(~hidden[:, None], torch.zeros(())),
    )


def test_imputation_continues_a_ramp():
    ramp = torch.arange(48.0).expand(1, 1, 48, 48) / 48
    hidden = torch.zeros(1, 48, 48, dtype=torch.bool)
    hidden[:, 5:40, 7:44] = True
    assert torch.allclose(imputation.impute(ramp, hidden, tolerance=1e-6), ramp, atol=1e-5)


def test_imputing_in_small_pieces_equals_imputing_at_once(monkeypatch):
    images = noise(5, 3, 32, 32)
    hidden = hidden_pixels("cells", 0.5, 32).repeat(3, 1, 1)[:5]
    whole = imputation.impute(images, hidden)
    monkeypatch.setattr(imputation, "CACHE_PX", 1)
    assert (imputation.impute(images, hidden) - whole).abs().max() <= 1 / 255
