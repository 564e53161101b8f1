"""learner: how a device computes, which weights are kept, and when they are no numbers."""

import torch
from examples_networks import small, toy

from her2lib.networks import learner, recipes

CPU = torch.device("cpu")


def learner_of(**settings):
    patches = toy(8)
    score = torch.as_tensor(patches.score)
    arithmetic = learner.choose_arithmetic(CPU, "float32")
    return learner.Learner(small(), recipes.complete_recipe(settings), score, 2, arithmetic), score


def test_channels_come_last_where_that_is_faster():
    plain = learner.choose_arithmetic(CPU, "float32")
    half = learner.choose_arithmetic(CPU, "bfloat16")
    assert (plain.dtype, plain.layout) == (torch.float32, torch.contiguous_format)
    assert (half.dtype, half.layout) == (torch.bfloat16, torch.channels_last)
    assert "the recipe asks for it" in half.reason


def test_an_update_moves_the_weights_and_the_mean_follows():
    moving, score = learner_of(ema=0.9)
    before = [value.clone() for value in moving.net.parameters()]
    for n_updates in (1, 2):
        loss, logits = moving.update(toy(8).images, score, n_updates)
    assert logits.shape == (8, 4)
    assert not loss.requires_grad
    moved = list(moving.net.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    mean = list(moving.averaged().parameters())
    assert any(not torch.equal(a, b) for a, b in zip(mean, moved, strict=True))
    assert list(moving.parts()) == ["net", "optimizer", "ema"]


def test_without_a_mean_the_network_itself_is_kept():
    moving, _ = learner_of()
    assert moving.averaged() is moving.net
    assert list(moving.parts()) == ["net", "optimizer"]


def test_one_weight_that_is_no_number_is_seen():
    moving, _ = learner_of()
    assert moving.finite() is True
    with torch.no_grad():
        moving.net.backbone.fc.bias[0] = float("nan")
    assert moving.finite() is False
