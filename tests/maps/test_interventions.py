"""Ablations: each leaves what its name says, and takes the rest."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from her2lib import stain
from her2lib.maps import interventions
from her2lib.phantoms import dataset


@pytest.fixture(scope="module")
def stained():
    patches = [
        dataset.make_patch(seed, side_px=96, mpp=1.0, score=score)
        for seed, score in enumerate((3, 2))
    ]
    images = (
        torch.from_numpy(np.stack([patch.image for patch in patches]))
        .permute(0, 3, 1, 2)
        .contiguous()
    )
    return patches, images


def tiles(images, side_px=24):
    cut = images.unfold(2, side_px, side_px).unfold(3, side_px, side_px)  # (B,3,4,4,24,24)
    cut = cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).contiguous()  # (B*16,3,24,24)
    return {tile.numpy().tobytes() for tile in cut}


def test_ablations_leave_what_their_name_says(stained):
    patches, images = stained
    masks = {
        name: torch.from_numpy(np.stack([patch.masks[name] for patch in patches]))
        for name in ("tumour", "deciding")
    }
    changed = interventions.ablations(images, masks=masks, mpp=1.0)
    tumour = masks["tumour"][:, None].expand_as(images)
    for value in changed.values():
        assert value.shape == images.shape
        assert value.dtype == torch.uint8
    named = ("intact", "dab_only", "haematoxylin_only")
    left = {name: stain.unmix(changed[name], white="glass").abs().mean((0, 2, 3)) for name in named}
    assert left["dab_only"][0] < 0.25 * left["intact"][0]
    assert left["haematoxylin_only"][1] < 0.25 * left["intact"][1]
    density = stain.optical_density(changed["hue_removed"], white="glass")
    assert density.std((2, 3)).min() > 0.02
    coloured = stain.optical_density(images, white="glass")
    assert density.std(1).median() < 0.01 < coloured.std(1).median()
    far = F.max_pool2d(tumour.float(), 13, 1, 6) == 0  # a rim of 6 um goes with the tumour
    assert torch.equal(changed["background_only"][far], images[far])
    assert far.any()
    assert torch.equal(changed["tumour_only"][tumour], images[tumour])
    assert changed["background_only"][0][tumour[0]].unique().numel() <= 3  # one colour of glass
    assert torch.equal(changed["corners_only"][:, :, :24, -24:], images[:, :, :24, -24:])
    assert changed["corners_only"][0, :, 30:60, 30:60].flatten(1).unique(dim=1).shape[1] == 1
    assert stain.dab(changed["corners_only"][:, :, 30:60, 30:60]).mean() < 0.1
    shuffled = changed["tiles_shuffled"]
    assert not torch.equal(shuffled, images)
    assert torch.equal(shuffled.flatten(1).sort().values, images.flatten(1).sort().values)
    assert tiles(shuffled) == tiles(images)


def test_blurred_membranes_keep_the_mean_dab_of_each_patch(stained):
    images = stained[1]
    blurred = interventions.ablations(images, mpp=1.0)["membranes_blurred"]
    before = stain.dab(images)
    after = stain.dab(blurred)
    assert torch.allclose(before.mean((1, 2)), after.mean((1, 2)), rtol=0.03)
    # the lace of membranes is gone
    assert (after.flatten(1).std(1) < 0.8 * before.flatten(1).std(1)).all()


def test_tiles_keep_their_place_where_there_is_one_and_the_seed_decides():
    images = torch.arange(2 * 3 * 9 * 8).remainder(256).to(torch.uint8).reshape(2, 3, 9, 8)

    def shuffled(seed, tiles):
        return interventions.tiles_shuffled(images, torch.Generator().manual_seed(seed), tiles)

    assert torch.equal(shuffled(0, 1), images)
    assert shuffled(0, 4).shape == (2, 3, 8, 8)  # a row that fills no tile is cut off
    assert torch.equal(shuffled(0, 4), shuffled(0, 4))
    assert not torch.equal(shuffled(0, 4), shuffled(1, 4))


def test_blur_keeps_an_even_picture_and_widens_a_spot():
    even = torch.full((1, 1, 15, 15), 0.5)
    assert torch.allclose(interventions.blurred(even, 2.0), even)
    spot = torch.zeros(1, 1, 15, 15)
    spot[..., 7, 7] = 1.0
    wide = interventions.blurred(spot, 1.0)
    assert wide.sum().item() == pytest.approx(1, abs=1e-4)
    assert wide[0, 0, 7, 7] == wide.max() < 0.2
