"""From stain on glass to a picture: Beer-Lambert by hand, and what light, scanner and file add."""

from dataclasses import replace

import numpy as np
import pytest

from her2lib.phantoms import scanner


@pytest.fixture
def clear():
    """Optics without blur, noise or JPEG, and dyes whose densities are easy to work out."""
    drawn = scanner.draw_optics(np.random.default_rng(1))
    still = replace(drawn, sharpen=0.0, noise=0.0, jpeg=0, tilt=(0.0, 0.0))
    return replace(
        still,
        blur_um=0.0,
        glass=(200.0, 200.0, 200.0),
        haematoxylin=(1.0, 0.5, 0.0),
        dab=(0.0, 0.5, 1.0),
    )


def develop(optics, **densities):
    """(16,16,3) picture of dyes of one density all over."""
    dyes = {name: np.full((16, 16), density, np.float32) for name, density in densities.items()}
    return scanner.develop(optics, dyes, mpp=0.5, rng=np.random.default_rng(0))


def half_stained():
    """(32,32) density, its right half 0.5."""
    dye = np.zeros((32, 32), np.float32)
    dye[:, 16:] = 0.5
    return dye


def edge_profile(optics, **more):
    """(32,) red grey levels across the edge of the stain."""
    dyes = {"haematoxylin": half_stained()}
    picture = scanner.develop(optics, dyes, mpp=0.5, rng=np.random.default_rng(0), **more)
    return picture[16, :, 0].astype(int)


# --- light and dyes ------------------------------------------------------------------------------


def test_glass_without_stain_has_the_colour_of_the_light(clear):
    assert (develop(clear, haematoxylin=0.0) == 200).all()


def test_a_density_of_one_lets_a_tenth_of_the_light_through(clear):
    # 200 / 10, 200 / sqrt(10), 200
    assert develop(clear, haematoxylin=1.0)[8, 8].tolist() == [20, 63, 200]


def test_densities_of_two_dyes_add(clear):
    assert develop(clear, haematoxylin=0.5, dab=0.5)[8, 8].tolist() == [63, 63, 63]


def test_grey_absorbs_all_colours_alike(clear):
    assert len(set(develop(clear, haematoxylin=0.0, grey=0.4)[8, 8].tolist())) == 1


def test_uneven_light_falls_from_edge_to_edge(clear):
    picture = develop(replace(clear, tilt=(0.1, 0.0)), haematoxylin=0.0).astype(int)
    assert picture[8, -1, 0] - picture[8, 0, 0] == pytest.approx(20, abs=1)
    assert picture[0, 8, 0] == picture[-1, 8, 0]


# --- lens, sensor and file -----------------------------------------------------------------------


def test_blur_widens_an_edge_and_sharpening_overshoots_it(clear):
    plain = edge_profile(clear)
    soft = edge_profile(replace(clear, blur_um=1.0))
    sharp = edge_profile(replace(clear, blur_um=0.5, sharpen=1.5))
    assert len(set(plain)) == 2
    assert len(set(soft)) > 4
    assert sharp.max() > plain.max()
    assert sharp.min() < plain.min()


def test_defocus_blurs_only_where_it_is(clear):
    where = np.zeros((32, 32), np.float32)
    assert (edge_profile(clear, defocus=where) == edge_profile(clear)).all()
    where[:16] = 1
    dyes = {"haematoxylin": half_stained()}
    picture = scanner.develop(clear, dyes, mpp=0.5, rng=np.random.default_rng(0), defocus=where)
    assert len(set(picture[4, :, 0].tolist())) > len(set(picture[28, :, 0].tolist())) == 2


def test_noise_has_the_stated_spread(clear):
    flat = scanner.develop(
        replace(clear, noise=2.0, glass=(255.0,) * 3),
        {"dab": np.full((256, 256), 0.4, np.float32)},
        mpp=0.5,
        rng=np.random.default_rng(0),
    )
    # shot noise: the root of the share of light, 10^(-0.4*0.5/2)
    assert flat[..., 1].std() == pytest.approx(2.0 * 10**-0.1, rel=0.03)


def test_jpeg_changes_little_and_repeats_exactly(clear):
    one, two = (develop(replace(clear, noise=1.0, jpeg=85), haematoxylin=0.2) for _ in range(2))
    bare = develop(replace(clear, noise=1.0), haematoxylin=0.2)
    assert (one == two).all()
    assert 0 < np.abs(one.astype(int) - bare).mean() < 3


# --- draws ---------------------------------------------------------------------------------------


def test_slides_of_one_laboratory_share_its_scanner_and_almost_its_dyes():
    one, two, other = (
        scanner.draw_optics(np.random.default_rng(seed), laboratory=laboratory)
        for seed, laboratory in ((1, 3), (2, 3), (3, 4))
    )
    assert (one.sharpen, one.noise, one.jpeg) == (two.sharpen, two.noise, two.jpeg)
    assert (two.sharpen, two.noise, two.jpeg) != (other.sharpen, other.noise, other.jpeg)
    assert np.dot(one.dab, two.dab) > 0.995
    assert one.dab != two.dab


def test_every_stain_vector_is_a_direction():
    for seed in range(30):
        drawn = scanner.draw_optics(np.random.default_rng(seed), laboratory=seed)
        for vector in (drawn.haematoxylin, drawn.dab):
            assert np.linalg.norm(vector) == pytest.approx(1)
            assert min(vector) > 0
        # blue dye takes red light, brown dye takes blue light
        assert drawn.haematoxylin[0] > drawn.dab[0]
        assert drawn.haematoxylin[2] < drawn.dab[2]
