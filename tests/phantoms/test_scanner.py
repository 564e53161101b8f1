"""From stain on glass to a picture: Beer-Lambert in numbers worked out by hand, and what light, scanner and file add."""

from dataclasses import replace

import numpy as np
import pytest

from her2lib.phantoms import scanner


@pytest.fixture
def clear():
    drawn = scanner.draw(np.random.default_rng(1))
    still = replace(drawn, sharpen=0.0, noise=0.0, jpeg=0, tilt=(0.0, 0.0))
    return replace(
        still,
        blur_um=0.0,
        glass=(200.0, 200.0, 200.0),
        haematoxylin=(1.0, 0.5, 0.0),
        dab=(0.0, 0.5, 1.0),
    )


def develop(how, **dyes):
    return scanner.develop(
        how,
        {name: np.full((16, 16), d, np.float32) for name, d in dyes.items()},
        mpp=0.5,
        rng=np.random.default_rng(0),
    )


def test_glass_without_stain_has_the_colour_of_the_light(clear):
    assert (develop(clear, haematoxylin=0.0) == 200).all()


def test_a_density_of_one_lets_a_tenth_of_the_light_through(clear):
    assert develop(clear, haematoxylin=1.0)[8, 8].tolist() == [
        20,
        63,
        200,
    ]  # 200 / 10, 200 / sqrt(10), 200


def test_densities_of_two_dyes_add(clear):
    assert develop(clear, haematoxylin=0.5, dab=0.5)[8, 8].tolist() == [63, 63, 63]


def test_grey_absorbs_all_colours_alike(clear):
    assert len(set(develop(clear, haematoxylin=0.0, grey=0.4)[8, 8].tolist())) == 1


def test_uneven_light_falls_from_edge_to_edge(clear):
    picture = develop(replace(clear, tilt=(0.1, 0.0)), haematoxylin=0.0).astype(int)
    assert picture[8, -1, 0] - picture[8, 0, 0] == pytest.approx(20, abs=1)
    assert picture[0, 8, 0] == picture[-1, 8, 0]


def stripe(how, **more):
    dye = np.zeros((32, 32), np.float32)
    dye[:, 16:] = 0.5
    return scanner.develop(
        how, {"haematoxylin": dye}, mpp=0.5, rng=np.random.default_rng(0), **more
    )[16, :, 0].astype(int)


def test_blur_widens_an_edge_and_sharpening_overshoots_it(clear):
    plain, soft = stripe(clear), stripe(replace(clear, blur_um=1.0))
    sharp = stripe(replace(clear, blur_um=0.5, sharpen=1.5))
    assert len(set(plain)) == 2
    assert len(set(soft)) > 4
    assert sharp.max() > plain.max()
    assert sharp.min() < plain.min()


def test_defocus_blurs_only_where_it_is(clear):
    where = np.zeros((32, 32), np.float32)
    assert (stripe(clear, defocus=where) == stripe(clear)).all()
    where[:16] = 1
    dye = np.zeros((32, 32), np.float32)
    dye[:, 16:] = 0.5
    picture = scanner.develop(
        clear, {"haematoxylin": dye}, mpp=0.5, rng=np.random.default_rng(0), defocus=where
    )
    assert len(set(picture[4, :, 0].tolist())) > len(set(picture[28, :, 0].tolist())) == 2


def test_noise_has_the_stated_spread(clear):
    flat = scanner.develop(
        replace(clear, noise=2.0, glass=(255.0,) * 3),
        {"dab": np.full((256, 256), 0.4, np.float32)},
        mpp=0.5,
        rng=np.random.default_rng(0),
    )
    assert flat[..., 1].std() == pytest.approx(
        2.0 * 10**-0.1, rel=0.03
    )  # shot noise: the root of the share of light, 10^(-0.4*0.5/2)


def test_jpeg_changes_little_and_repeats_exactly(clear):
    one, two = (develop(replace(clear, noise=1.0, jpeg=85), haematoxylin=0.2) for _ in range(2))
    bare = develop(replace(clear, noise=1.0), haematoxylin=0.2)
    assert (one == two).all()
    assert 0 < np.abs(one.astype(int) - bare).mean() < 3


def test_slides_of_one_laboratory_share_its_scanner_and_almost_its_dyes():
    one, two, other = (
        scanner.draw(np.random.default_rng(k), laboratory=lab)
        for k, lab in ((1, 3), (2, 3), (3, 4))
    )
    assert (
        (one.sharpen, one.noise, one.jpeg)
        == (two.sharpen, two.noise, two.jpeg)
        != (other.sharpen, other.noise, other.jpeg)
    )
    assert np.dot(one.dab, two.dab) > 0.995
    assert one.dab != two.dab


def test_every_stain_vector_is_a_direction():
    for seed in range(30):
        drawn = scanner.draw(np.random.default_rng(seed), laboratory=seed)
        for vector in (drawn.haematoxylin, drawn.dab):
            assert np.linalg.norm(vector) == pytest.approx(1)
            assert min(vector) > 0
        assert (
            drawn.haematoxylin[0] > drawn.dab[0]
        )  # blue dye takes red light, brown dye takes blue light
        assert drawn.haematoxylin[2] < drawn.dab[2]
