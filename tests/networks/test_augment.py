"""augment: the order of an epoch, batches, the eight flips, stain jitter, mixup, streaming."""

import numpy as np
import torch
from examples_networks import toy

from her2lib.networks import augment


def test_an_epoch_shows_every_patch_once_in_an_order_of_its_own():
    score = np.arange(20) % 4
    first, again, second = (augment.epoch_order(score, seed=1, epoch=epoch) for epoch in (1, 1, 2))
    assert sorted(first.tolist()) == list(range(20))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_balanced_epoch_shows_every_score_equally_often():
    score = np.repeat([0, 1, 3], [900, 90, 10])
    rows = augment.epoch_order(score, seed=0, epoch=1, balanced=True)
    drawn = np.bincount(score[rows], minlength=4)
    assert drawn[2] == 0
    assert all(abs(drawn[k] - 333) < 60 for k in (0, 1, 3))


def test_batches_drop_a_single_leftover_and_are_even_for_mixup():
    def sizes(n, **options):
        return [len(part) for part in augment.cut_batches(torch.arange(n), 4, **options)]

    assert sizes(9) == [4, 4]
    assert sizes(11, even=True) == [4, 4, 2]
    assert sizes(1) == [1]


def test_flips_reach_the_eight_and_only_the_eight():
    image = torch.arange(27, dtype=torch.uint8).view(1, 3, 3, 3)
    wanted = set()
    for flip in (image, image.flip(3)):
        wanted |= {tuple(torch.rot90(flip, k, (2, 3)).flatten().tolist()) for k in range(4)}
    flipped = augment.augment(image.repeat(200, 1, 1, 1), seed=0, epoch=1, step=0, flips=True)
    assert {tuple(row.flatten().tolist()) for row in flipped} == wanted
    assert len(wanted) == 8


def test_stain_jitter_repeats_by_step_and_differs_between_steps():
    images = toy().images
    first, again, other = (
        augment.augment(images, seed=0, epoch=1, step=step, stain=0.2) for step in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, images)


def test_mixup_mixes_shares_as_it_mixes_patches():
    augment.seed_global_rngs(0, 1)
    # Patch k is 1 in channel k.
    x = torch.eye(4)[:, :, None, None].repeat(1, 1, 2, 2)
    mixed, soft_labels = augment.mixer(1.0, 4)(x.clone(), torch.arange(4))
    assert torch.allclose(mixed[:, :, 0, 0], soft_labels)
    assert 0 < soft_labels.max() < 1


def test_without_mixup_scores_are_one_hot_and_patches_as_they_were():
    x = torch.rand(2, 3, 2, 2)
    same, soft_labels = augment.mixer(0.0, 4)(x, torch.tensor([3, 1]))
    assert same is x
    assert soft_labels.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]


def test_streamed_chunks_come_apart_into_the_same_batches(monkeypatch):
    # Two batches of three patches of one byte.
    monkeypatch.setattr(augment, "CHUNK_BYTES", 6)
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    gathered = []
    gather = augment._gather

    def gather_and_note(*arguments):
        chunk = gather(*arguments)
        gathered.append(chunk.flatten().tolist())
        return chunk

    monkeypatch.setattr(augment, "_gather", gather_and_note)
    sizes = [len(batch) for batch in augment.batches(images, torch.arange(10).split(3), "meta")]
    assert sizes == [3, 3, 3, 1]
    assert gathered == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]


def test_a_cpu_reads_where_the_patches_are():
    images = toy().images
    held, sentence = augment.to_device(images, "cpu")
    assert held is images
    assert "memory map" in sentence


def test_the_callers_chance_stands_where_it_stood():
    torch_state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    with augment.preserve_rng_state():
        augment.seed_global_rngs(3, 1)
        torch.rand(5)
        np.random.rand(5)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
