"""Stain separation, masks and the DAB rule.

Against numbers worked out by hand, scikit-image, SciPy, and 32 real patches.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from skimage.color import separate_stains

from her2lib import stain
from her2lib.phantoms import dataset, slide

REAL = Path(__file__).parents[2] / "shared" / "real"
# A cast multiplies red, green and blue.
YELLOW = (1.0, 0.94, 0.80)
GREY = (0.80, 0.80, 0.80)
needs_real = pytest.mark.skipif(
    not REAL.exists(), reason="the 32 real patches lie beside the checkout, not in it"
)


def noise(*shape, seed=0):
    """uint8 noise of any shape."""
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def paint(h, d, glass=(235, 234, 243)):
    """(1,3,H,W) uint8 by Beer-Lambert from (H,W) densities of haematoxylin and DAB.

    Written out anew, with Ruifrok's vectors.
    """
    vectors = torch.tensor([[0.650, 0.704, 0.286], [0.268, 0.570, 0.776]])
    od = h[None] * vectors[0][:, None, None] + d[None] * vectors[1][:, None, None]
    return (
        (torch.tensor(glass)[:, None, None] * 10**-od).round().clamp(0, 255).to(torch.uint8)[None]
    )


def seeded(seed):
    """Generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def everything(images):
    """dict of all that is computed of images."""
    values = {"unmix": stain.unmix(images, white="glass"), "value": stain.rule_value(images)}
    values |= {f"mask {name}": mask for name, mask in stain.masks(images).items()}
    return values | stain.measures(images)


def cast(images, levels):
    """Images under tinted light."""
    return (images * torch.tensor(levels)[:, None, None]).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def field():
    """Left third glass, then a honeycomb of stained membranes 4 px thick, then stroma without DAB.

    A disc of grey dust lies on the stroma.
    """
    y, x = torch.meshgrid(torch.arange(480), torch.arange(480), indexing="ij")
    tissue = x >= 160
    nest = tissue & (x < 320)
    wall = nest & ((x % 20 < 4) | (y % 20 < 4))
    dust = (x - 400) ** 2 + (y - 240) ** 2 < 36
    image = paint(0.04 * tissue + 0.15 * nest * ~wall, 0.5 * wall)
    image = torch.where(dust, torch.tensor(60, dtype=torch.uint8), image)
    return {"image": image, "wall": wall, "nest": nest, "glass": ~tissue, "dust": dust}


@pytest.fixture(scope="module")
def real():
    rows = list(csv.DictReader((REAL / "manifest.csv").open()))
    images = [
        torch.from_numpy(np.array(Image.open(REAL / r["path"]).convert("RGB"))).permute(2, 0, 1)
        for r in rows
    ]
    return torch.stack(images), np.array([int(r["score"][0]) for r in rows])


# --- density and stains ---------------------------------------------------------------------------


def test_constants_are_pinned():
    golden = [[0.650, 0.704, 0.286], [0.268, 0.570, 0.776], [0.6362, -0.7100, 0.3018]]
    assert stain.HDAB.tolist() == golden
    cross = np.cross(golden[0], golden[1])
    assert np.allclose(cross / np.linalg.norm(cross), golden[2], atol=1e-4)
    h, d, _ = np.ones(3) @ np.linalg.inv(stain.HDAB.numpy())
    assert d / h == pytest.approx(stain.GREY, abs=0.005)


def test_optical_density_by_hand():
    image = torch.tensor([255, 0, 26], dtype=torch.uint8).view(1, 3, 1, 1)
    # log10(255/255), black counts as grey level 1, log10(255/26)
    density = stain.optical_density(image).flatten()
    assert density.tolist() == pytest.approx([0, 2.40654, 0.99157], abs=1e-5)
    against = stain.optical_density(image, white=(255, 100, 26)).flatten()
    assert against.tolist() == pytest.approx([0, 2.0, 0], abs=1e-6)


def test_unmix_gives_back_what_was_painted():
    h = torch.rand(64, 64)
    d = 0.8 * torch.rand(64, 64)
    got = stain.unmix(paint(h, d), white=torch.tensor([[235.0, 234.0, 243.0]]))[0]
    # half a grey level of rounding
    assert got[0].sub(h).abs().median() < 0.005
    assert got[1].sub(d).abs().median() < 0.005


def test_golden_values():
    # a brown, a blue and a grey pixel; densities by Cramer's rule from the pinned rows a, b, c
    pixels = np.array([[139, 90, 43], [100, 110, 160], [128, 128, 128]])
    image = torch.from_numpy(pixels.T.astype("uint8").copy()).reshape(1, 3, 1, 3)
    got = stain.unmix(image, residual=True)[0, :, 0].T.numpy()
    a, b, c = stain.HDAB.numpy()
    cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], 1)
    by_hand = -np.log10(pixels / 255) @ cofactors / np.dot(a, np.cross(b, c))
    assert np.allclose(got, by_hand, atol=1e-6)
    golden = [[-0.0833, 0.9959, 0.0798], [0.5523, 0.0338, 0.0605], [0.2896, 0.2524, 0.0683]]
    assert np.allclose(got, golden, atol=1e-4)


def test_agrees_with_scikit_image():
    image = noise(1, 3, 24, 24).clamp(min=1)
    ours = stain.unmix(image, residual=True).clamp(min=0)
    pixels = image[0].permute(1, 2, 0).numpy() / 255
    # theirs in units of log10(1e-6)
    theirs = separate_stains(pixels, np.linalg.inv(stain.HDAB.numpy())) * 6
    assert np.allclose(ours[0].permute(1, 2, 0).numpy(), theirs, atol=1e-5)
    assert torch.allclose(stain.dab(image), ours[:, 1])


@pytest.mark.parametrize("glass", [(235, 234, 243), (204, 204, 204), (240, 226, 190)])
def test_white_point_finds_the_glass(field, glass):
    tinted = cast(field["image"], np.array(glass, "float32") / np.array((235, 234, 243), "float32"))
    assert stain.white_point(tinted)[0].tolist() == pytest.approx(glass, abs=1.0)
    balanced = stain.white_balance(tinted)[0, :, :, :150]
    assert balanced.float().mean((1, 2)).tolist() == pytest.approx([255] * 3, abs=1.0)


def test_white_point_without_glass_is_the_palest_tissue(field):
    tissue = field["image"][:, :, :, 330:]  # all stroma of density 0.04
    expected = [
        235 * 10 ** (-0.04 * 0.650),
        234 * 10 ** (-0.04 * 0.704),
        243 * 10 ** (-0.04 * 0.286),
    ]
    assert stain.white_point(tissue)[0].tolist() == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("seed", [3, 4, 6])
def test_white_point_of_phantoms(seed):
    phantom = dataset.make_patch(seed, side_px=512)
    image = torch.from_numpy(phantom.image.copy()).permute(2, 0, 1)[None]
    white = stain.white_point(image)[0].numpy()
    assert np.abs(np.log10(white / np.array(phantom.slide.optics.glass))).max() < 0.03


# --- masks, ridges and measures -------------------------------------------------------------------


def test_masks_of_a_painted_field(field):
    area = {name: m[0] for name, m in stain.masks(field["image"], mpp=1.0).items()}
    away = slice(None), slice(0, 150)  # windows reach 8 um over the border
    assert area["glass"][away].all()
    assert area["tissue"][:, 165:].all()
    assert area["tumour"][:, 170:310].all()
    assert not area["tumour"][:, 340:][~field["dust"][:, 340:]][:1000].any()
    assert (area["stroma"] == (area["tissue"] & ~area["tumour"])).all()
    assert (area["glass"] == ~area["tissue"]).all()


def test_membrane_mask_is_on_membranes_only(field):
    fine = stain.masks(field["image"], mpp=0.5)["membrane"][0]
    assert fine.sum() > 0.5 * field["wall"].sum()
    assert field["wall"][fine].float().mean() > 0.95
    assert not fine[:, 330:].any()  # grey dust is no membrane


def test_blush_and_grains_are_no_membrane():
    blush = paint(torch.full((300, 300), 0.1), torch.full((300, 300), 0.4))
    grains = torch.zeros(300, 300)
    # short dark brown grains, 97 px apart
    for row in (40, 41, 42):
        grains[row::97, 40::97] = 0.9
    for image in (blush, paint(torch.full((300, 300), 0.1), grains)):
        assert not stain.masks(image, mpp=0.5)["membrane"].any()
    assert stain.rule_value(blush, mpp=0.5) < 1e-5


def test_ridge_of_a_line_and_of_a_dot_by_hand():
    y, x = torch.meshgrid(torch.arange(61.0) - 30, torch.arange(61.0) - 30, indexing="ij")
    # radius 2 px, height 1
    line = torch.exp(-(x**2) / 8)
    aslant = torch.exp(-((x + y) ** 2) / 16)
    dot = torch.exp(-(x**2 + y**2) / 8)
    slope = 0.5 * x + y
    assert stain._ridge(line[None], 2.0)[0, 30, 30] == pytest.approx(1.0, abs=0.05)
    assert stain._ridge(line.T[None], 2.0)[0, 30, 30] == pytest.approx(1.0, abs=0.05)
    assert stain._ridge(aslant[None], 2.0)[0, 30, 30] == pytest.approx(1.0, abs=0.07)
    assert stain._ridge(dot[None], 2.0)[0, 30, 30] < 0.02
    assert stain._ridge(slope[None], 2.0)[0, 10:-10, 10:-10].abs().max() < 1e-4


def test_measures_by_hand(field):
    got = {name: float(value[0]) for name, value in stain.measures(field["image"], mpp=1.0).items()}
    assert got["tissue"] == pytest.approx(2 / 3, abs=0.03)
    painted = 0.5 * field["wall"].float().mean().item()
    assert got["od_mean"] == pytest.approx(painted, abs=0.01)
    assert got["od_q50"] < 0.05 < 0.45 < got["od_q95"] < 0.55
    wall = field["wall"].sum().item() / (~field["glass"]).sum().item()
    assert got["tissue_over_0.3"] == pytest.approx(wall, rel=0.05)
    assert got["tissue_over_0.6"] < 0.002  # nothing but the dust


def test_completeness_tells_rings_from_lines():
    wall = torch.zeros(1, 100, 100, dtype=torch.bool)
    wall[:, :, ::20] = True
    # lines all along one way enclose nothing
    assert not stain._closed(wall, 30)[~wall].any()
    wall[:, ::20] = True
    assert stain._closed(wall, 30)[0, 20:80, 20:80].all()
    # cells wider than the reach
    assert not stain._closed(wall, 5)[0, 30, 30]


def test_quantile_equals_numpy():
    x = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    for q in (0.1, 0.5, 0.95):
        wanted = np.quantile(x.reshape(3, -1), q, axis=1, method="inverted_cdf")
        # the width of a bin
        assert np.allclose(stain._quantile(x, q, high=1.0), wanted, atol=1 / 2048)


def test_any_size_any_batch_same_answer(monkeypatch):
    images = noise(5, 3, 37, 61)
    whole = everything(images)
    drawn = stain.jitter(images, generator=seeded(1))
    monkeypatch.setattr(stain, "CHUNK_PX", 2 * 37 * 61)
    cut = everything(images)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert torch.equal(drawn, stain.jitter(images, generator=seeded(1)))
    assert torch.equal(stain.rule_value(images[3:4]), whole["value"][3:4])
    tiny = noise(1, 3, 1, 1)
    assert stain.rule_score(tiny).shape == (1,)
    assert all(torch.isfinite(v).all() for v in stain.measures(tiny).values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_gpu_equals_cpu(field):
    images = torch.cat([field["image"], noise(1, 3, 480, 480)])
    torch.backends.cudnn.allow_tf32 = True  # the default that rounds convolutions
    for f in (stain.white_point, stain.unmix, stain.rule_value):
        assert torch.allclose(f(images), f(images.cuda()).cpu(), atol=1e-5)
    for name, mask in stain.masks(images).items():
        assert (mask != stain.masks(images.cuda())[name].cpu()).float().mean() < 1e-4, name
    draws = [
        stain.jitter(x, generator=torch.Generator().manual_seed(0)).cpu().int()
        for x in (images, images.cuda())
    ]
    assert (draws[0] - draws[1]).abs().max() <= 1


# --- the rule -------------------------------------------------------------------------------------


def test_rule_score_cuts():
    low, middle, high = stain.CUTS
    values = torch.tensor([0.0, low - 1e-6, low + 1e-6, middle + 1e-6, high + 1e-6, 9.0])
    assert stain.rule_score(values).tolist() == [0, 0, 1, 2, 3, 3]
    assert stain.rule_score(torch.tensor([0.5]), cuts=(0.1, 0.2, 0.9)).tolist() == [2]
    # a study of fewer scores is answered by the nearest, the lower one of two as near
    assert stain.rule_score(values, scores=(1, 2, 3)).tolist() == [1, 1, 1, 2, 3, 3]
    assert stain.rule_score(values, scores=(0, 2, 3)).tolist() == [0, 0, 0, 2, 3, 3]


def test_rule_rises_with_intensity_and_share(field):
    def value(density, every):
        wall = field["wall"] & (torch.arange(480)[:, None] % (20 * every) < 20)
        return stain.rule_value(paint(torch.zeros(480, 480), density * wall), mpp=0.5).item()

    assert value(0.1, 1) < value(0.3, 1) < value(0.8, 1)
    assert value(0.5, 4) < value(0.5, 2) < value(0.5, 1)


@pytest.mark.parametrize("levels", [YELLOW, GREY])
def test_a_cast_moves_the_rule_little(field, levels):
    plain = stain.rule_value(field["image"])
    raw = cast(field["image"], levels)
    assert stain.rule_value(raw).item() == pytest.approx(plain.item(), rel=0.03)
    assert stain.rule_value(stain.white_balance(raw)).item() == pytest.approx(
        plain.item(), rel=0.03
    )


@pytest.mark.slow
def test_rule_orders_phantoms_never_seen():
    slides = [slide.draw_slide(30_000 + k, score=k % 4, laboratory=k) for k in range(48)]
    phantoms = [
        dataset.make_patch(20_000 + k, side_px=512, slide=slides[k], score=k % 4) for k in range(48)
    ]
    pixels = np.stack([phantom.image for phantom in phantoms])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    scores = [phantom.score for phantom in phantoms]
    assert spearmanr(stain.rule_value(images, mpp=0.5), scores).statistic > 0.7


@needs_real
def test_rule_on_real_patches_raw_and_balanced(real):
    images, score = real
    for variant in (images, stain.white_balance(images)):
        assert spearmanr(stain.rule_value(variant), score).statistic >= 0.85


def moved(images, levels):
    """Values without and with the cast, and the same after white balance."""
    tinted = cast(images, levels)
    return [
        stain.rule_value(x).numpy()
        for x in (images, tinted, stain.white_balance(images), stain.white_balance(tinted))
    ]


@needs_real
@pytest.mark.parametrize("levels", [YELLOW, GREY])
def test_a_cast_moves_real_values_little(real, levels):
    raw, tinted, balanced, both = moved(real[0][::8], levels)
    assert np.abs(tinted / raw - 1).max() <= 0.03
    assert np.abs(both / balanced - 1).max() <= 0.03


@needs_real
@pytest.mark.slow
@pytest.mark.parametrize("levels", [YELLOW, GREY, (1.0, 0.90, 0.70), (0.70, 0.70, 0.70)])
def test_a_cast_moves_the_rank_correlation_little(real, levels):
    rho = [spearmanr(v, real[1]).statistic for v in moved(real[0], levels)]
    assert min(rho) >= 0.85
    assert abs(rho[1] - rho[0]) <= 0.03
    assert abs(rho[3] - rho[2]) <= 0.03


@needs_real
def test_membranes_of_real_patches_lie_in_the_stained_cores(real):
    # a core of score 0, an unstained one of 2+, one of 3+
    fraction = stain.measures(real[0][[0, 20, 28]])["membrane"]
    assert (fraction[:2] < 0.01).all()
    assert fraction[2] > 0.2


# --- jitter, one stain alone, errors --------------------------------------------------------------


def test_jitter_keeps_glass_near_white_and_is_reproducible(field):
    images = field["image"].expand(8, -1, -1, -1)
    one, same, other = (stain.jitter(images, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    still = stain.jitter(images, generator=seeded(0), strength=0, turn=0, cast=0)
    assert (still.int() - images.int()).abs().max() <= 1
    # stains change, light does not
    white = torch.full((4, 3, 8, 8), 255, dtype=torch.uint8)
    assert stain.jitter(white, generator=seeded(0), cast=0).min() == 255
    scaled = stain.jitter(images, generator=seeded(0), turn=0, cast=0)
    amounts = stain.unmix(scaled)[:, 1][:, field["wall"]].mean(1)
    assert 0.03 < (amounts / amounts.mean()).std() < 0.3


def test_only_leaves_one_stain_on_the_same_glass(field):
    image, wall, nest = field["image"], field["wall"], field["nest"]
    brown, blue, grey = (stain.only(image, name) for name in ("dab", "haematoxylin", "grey"))
    for picture in (brown, blue, grey):
        assert (picture[..., :150].int() - image[..., :150].int()).abs().max() <= 2
    assert stain.unmix(brown, white="glass")[0, 0][nest].abs().mean() < 0.02
    assert stain.unmix(blue, white="glass")[0, 1][nest].abs().mean() < 0.02
    density = stain.unmix(brown, white="glass")[0, 1][wall].mean()
    assert density == pytest.approx(0.5, abs=0.03)
    # no hue left
    density = stain.optical_density(grey, white="glass")[0]
    assert (density.amax(0) - density.amin(0)).median() < 0.01
    before = stain.optical_density(image, white="glass").mean().item()
    assert density.mean() == pytest.approx(before, abs=0.005)


def test_clear_errors():
    with pytest.raises(ValueError, match=r"uint8 \(B,3,H,W\)"):
        stain.dab(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="hold no pixels"):
        stain.measures(torch.zeros(0, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="choose one of haematoxylin, dab, grey"):
        stain.only(noise(1, 3, 8, 8), "eosin")
    with pytest.raises(ValueError, match="white='paper'"):
        stain.unmix(noise(1, 3, 8, 8), white="paper")
    with pytest.raises(ValueError, match="micrometres per pixel"):
        stain.masks(noise(1, 3, 8, 8), mpp=0)
