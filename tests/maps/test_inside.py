"""Looking into networks: what is explained, what is read, what is refused, in how large pieces."""

import numpy as np
import pytest
import torch

from her2lib.maps import attribution, inside
from her2lib.networks import models


def network(name, side_px=64):
    return models.create(name, side_px=side_px, weights="none", seed=3)


def pixels(net, count=3):
    """(count,3,H,W) uint8, patches drawn by chance at the side of the network."""
    shape = (count, 3, net.side_px, net.side_px)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def patches(net, count=3):
    return models.normalise(pixels(net, count), net)


def test_the_scalar_explained():
    logits = torch.tensor([[0.3, -0.2, 1.0, 0.5], [2.0, 0.0, 0.0, -1.0]], dtype=torch.float64)
    p = logits.softmax(1)
    assert torch.equal(inside.explained(logits, 2), logits[:, 2])
    assert torch.equal(
        inside.explained(logits, torch.tensor([1, 3])),
        torch.tensor([-0.2, -1.0], dtype=torch.float64),
    )
    above = p[:, 2:].sum(1)
    assert torch.allclose(inside.explained(logits, "1+|2+"), torch.log(above / (1 - above)))
    assert torch.allclose(
        inside.explained(logits, "expected"), p @ torch.arange(4.0, dtype=torch.float64)
    )
    for wrong, message in ((4, "0..3"), (-1, "0..3"), (1.5, "whole number"), ("2+", "a cut")):
        with pytest.raises(ValueError, match=message):
            inside.explained(logits, wrong)


def test_small_pieces_equal_one_piece(monkeypatch):
    net, score = network("vit_tiny"), torch.tensor([0, 3, 1])
    x = patches(net)
    whole = [attribution.relevance(net, x, score), attribution.rollout(net, x)]
    monkeypatch.setattr(inside, "ATTENTION_BYTES", 1)
    assert inside.input_pieces(net, x) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    for before, now in zip(
        whole, [attribution.relevance(net, x, score), attribution.rollout(net, x)], strict=True
    ):
        assert torch.allclose(before, now, rtol=1e-4, atol=1e-9)


class Handed:
    """Something that holds patches, as a store does."""

    def __init__(self, images):
        self.images = images


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny", "hybrid"])
def test_every_method_takes_uint8_patches_arrays_and_whatever_holds_patches(name):
    net = network(name)
    images = pixels(net, 2)
    x = models.normalise(images, net)
    quick = {
        key: method
        for key, method in attribution.methods_for(net).items()
        if key not in ("occlusion", "integrated_gradients")
    }
    for method in quick.values():
        expected = method.function(net, x, 2)
        for given_as in (images, images.numpy(), Handed(images), Handed(images.numpy())):
            assert torch.equal(method.function(net, given_as, 2), expected)


def test_scores_may_be_a_numpy_array_or_a_list_one_for_each_patch():
    net = network("resnet18")
    images = pixels(net)
    expected = attribution.grad_cam(net, images, torch.tensor([0, 3, 1]))
    read_only = np.array([0, 3, 1])
    read_only.setflags(write=False)
    for score in (read_only, np.array([0, 3, 1], np.uint8), [0, 3, 1]):
        assert torch.equal(attribution.grad_cam(net, images, score), expected)
    same = attribution.grad_cam(net, images, np.int64(2))
    assert torch.equal(same, attribution.grad_cam(net, images, 2))
    with pytest.raises(ValueError, match=r"3 patches but scores of shape \(2,\)"):
        attribution.grad_cam(net, images, np.array([0, 1]))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_patches_that_do_not_fit_are_refused_in_a_sentence(name):
    net = network(name)
    wrong_side = pixels(network(name, 96), 2)
    for method in (attribution.grad_cam, attribution.random_map, attribution.occlusion):
        with pytest.raises(ValueError, match="was created for side_px=64"):
            method(net, wrong_side, 1)
    with pytest.raises(ValueError, match="computes in float32, the patches are float64"):
        attribution.grad_cam(net, patches(net).double(), 1)
    with pytest.raises(ValueError, match="give the uint8 patches"):
        attribution.grad_cam(net, pixels(net).numpy() / 255, 1)
    with pytest.raises(ValueError, match=r"patches \(B,3,H,W\), not of shape \(3, 64, 64\)"):
        attribution.grad_cam(net, patches(net)[0], 1)


def test_a_network_of_double_precision_takes_uint8_patches_too():
    net = network("resnet18").double()
    images = pixels(net, 2)
    single = attribution.grad_cam(network("resnet18"), images, 1)
    maps = attribution.grad_cam(net, images, 1)
    assert maps.dtype == torch.float64
    assert torch.allclose(maps.float(), single, atol=1e-5)


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "attention", "rollout", "occlusion"])
def test_many_patches_go_through_in_batches_and_give_the_same_maps(method, monkeypatch):
    net = network("vit_tiny", 32)
    images = pixels(net, 5)
    function = attribution.METHODS[method].function
    scores = np.array([0, 1, 2, 3, 0])
    whole = function(net, images, scores)
    sizes = []
    tap = net.tap

    def counting(x, **options):
        sizes.append(len(x))
        return tap(x, **options)

    monkeypatch.setattr(net, "tap", counting)
    monkeypatch.setattr(attribution, "BATCH", 2)
    monkeypatch.setattr(inside, "ATTENTION_BYTES", 1)
    assert torch.allclose(function(net, images, scores), whole, atol=1e-6)
    assert all(size <= 2 for size in sizes)


def test_looking_puts_every_module_back_as_it_was_also_after_an_error():
    net = network("resnet18", 32)
    for i, module in enumerate(net.modules()):
        module.training = i % 2 == 0
    before = [module.training for module in net.modules()]
    with inside.looking(net, gradients=False):
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in net.modules()] == before

    def fail():
        with inside.looking(net, gradients=False):
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert [module.training for module in net.modules()] == before
    assert torch.is_grad_enabled()


def test_the_input_becomes_the_very_pixels_again():
    net = network("vit_tiny")
    images = pixels(net)
    assert torch.equal(inside.input_pixels(net, models.normalise(images, net)), images)
