"""Maps against numbers worked out by hand, Captum and matrix products; nothing left behind."""

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image
from torch import nn

from her2lib import plots, stain
from her2lib.maps import attribution
from her2lib.networks import models

REAL = Path(__file__).parents[3] / "shared" / "real"

NETWORKS = ("resnet18", "densenet201", "vit_tiny", "hybrid")
QUICK = {
    "integrated_gradients": functools.partial(attribution.integrated_gradients, steps=2),
    "occlusion": functools.partial(attribution.occlusion, window_px=32),
}
ATTENTIVE = ("vit_tiny", "hybrid")
PAIRS = [
    (n, m)
    for n in NETWORKS
    for m, method in attribution.METHODS.items()
    if method.needs == "any" or n in ATTENTIVE
]


@functools.cache
def network(name, side_px=64):
    return models.create(name, side_px=side_px, weights="none", seed=3)


def patches(net, count=3, seed=0):
    images = torch.randint(
        0, 256, (count, 3, net.side_px, net.side_px), generator=torch.Generator().manual_seed(seed)
    )
    return models.normalise(images.to(torch.uint8), net)


def run(name, net, x, score):
    return QUICK.get(name, attribution.METHODS[name].function)(net, x, score)


class ToyCnn(nn.Module):
    """Features are the red and green channel, logits weigh their means: maps by hand."""

    network, side_px, layers, grid = "toy", 2, 0, (2, 2)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0], [-1.0, 1.0]]))

    def forward(self, x):
        return self.tap(x).logits

    def tap(self, x, attention=()):
        features = x[:, :2] * 1
        return models.Tap(self.after(features), features.mean((2, 3)), features, None, {})

    def after(self, features):
        return features.mean((2, 3)) @ self.weight.T


class ToyVit(nn.Module):
    """One pooled and two patch tokens of one number each, two layers with a skip round each."""

    network, side_px, layers, heads, prefix_tokens, grid = "toy", 2, 2, 1, 1, (1, 2)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    first = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    second = torch.tensor([[0.2, 0.4, 0.4], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    def __init__(self, stem=False):
        super().__init__()
        self.stem = stem

    def tap(self, x, attention=()):
        stem = x[:, :1, :1, :] * 1  # (B,1,1,2): the two pixels of the first row are the patches
        pooled = torch.zeros_like(stem[:, 0, :, :1])
        tokens = torch.cat([pooled, stem[:, 0]], 2).transpose(1, 2)  # (B,T,1)
        weights = [a.expand(len(x), 1, 3, 3) + 0 * x.sum() for a in (self.first, self.second)]
        for layer in weights:
            tokens = tokens + layer[:, 0] @ tokens
        logits = torch.cat([tokens[:, 0], -tokens[:, 0], 2 * tokens[:, 0], 0 * tokens[:, 0]], 1)
        asked = {layer: weights[layer] for layer in attention}
        handed_over = None
        if self.stem:
            handed_over = stem
        return models.Tap(logits, tokens[:, 0], stem, handed_over, asked)


def toy_input():
    x = torch.zeros(1, 3, 2, 2)
    x[0, 0] = torch.tensor([[4.0, 8.0], [0.0, 4.0]])
    x[0, 1] = torch.tensor([[4.0, 0.0], [8.0, 12.0]])
    return x


ON_PAPER = ([[1, 2], [0, 1]], [[1, 0], [2, 3]], [[3, 2], [4, 7]], [[0, -2], [2, 2]])


@pytest.mark.parametrize(("score", "worked_out"), list(enumerate(ON_PAPER)))
def test_grad_cam_of_a_toy_network_is_the_number_on_paper(score, worked_out):
    # the gradient of logit k is weight[k] / 4 everywhere,
    # so the map is weight[k] . (red, green) / 4
    for method in (attribution.grad_cam, attribution.hires_cam):
        assert torch.equal(
            method(ToyCnn(), toy_input(), score), torch.tensor([worked_out], dtype=torch.float32)
        )


def test_layer_cam_of_a_toy_network_drops_the_negative_gradient():
    assert torch.equal(
        attribution.layer_cam(ToyCnn(), toy_input(), 3), torch.tensor([[[1.0, 0.0], [2.0, 3.0]]])
    )


def test_integrated_gradients_of_a_linear_toy_network_are_weight_times_the_way_from_glass():
    maps = attribution.integrated_gradients(ToyCnn(), toy_input(), 2, steps=4)
    red, green = toy_input()[0, 0] - 1, toy_input()[0, 1] - 1
    assert torch.allclose(maps[0], (red + 2 * green) / 4, atol=1e-6)


def test_occlusion_of_a_linear_toy_network_is_what_each_square_adds():
    maps = attribution.occlusion(
        ToyCnn(), toy_input(), 0, window_px=2
    )  # one square over the whole patch: mean red 4, glass 1
    assert torch.allclose(maps, torch.full((1, 2, 2), 3.0))


def test_rollout_of_a_toy_network_is_the_product_on_paper():
    # pooled row: .5 (1,0,0) + .5 (.2,.4,.4) = (.6,.2,.2); then .5 of it + .5 of it times the first
    # layer = (.5,.275,.225)
    assert torch.allclose(
        attribution.rollout(ToyVit(), toy_input(), 0), torch.tensor([[[0.275, 0.225]]])
    )


@pytest.mark.parametrize(("score", "times"), [(0, 1.0), (1, 0.0)])
def test_relevance_of_a_toy_network_is_the_number_on_paper(score, times):
    x = torch.zeros(1, 3, 2, 2)
    x[0, 0, 0] = torch.tensor([2.0, 4.0])
    # tokens after layer 1: (1.5, 4, 6), so the second layer's positive path is (.3, 1.6, 2.4); the
    # first layer's rows are
    # (0, .6, 1.2), (0, .8, 0), (0, 0, .8); pooled row: (1.3, 1.6, 2.4) plus itself times those rows
    # = (1.3, 3.66, 5.88)
    assert torch.allclose(
        attribution.relevance(ToyVit(), x, score), times * torch.tensor([[[3.66, 5.88]]])
    )
    # the stem holds (2, 4), its gradients are (1.1, .9): rule 5 multiplies by (2.2, 3.6); logit 1
    # is the negative of logit 0
    carried = attribution.relevance(ToyVit(stem=True), x, score)
    assert torch.allclose(carried, times * torch.tensor([[[3.66 * 2.2, 5.88 * 3.6]]]))
    tokens = attribution.relevance(ToyVit(stem=True), x, score, through_stem=False)
    assert torch.allclose(tokens, times * torch.tensor([[[3.66, 5.88]]]))


def test_attention_reads_the_asked_row():
    assert torch.allclose(
        attribution.attention(ToyVit(), toy_input()), torch.tensor([[[0.4, 0.4]]])
    )
    assert torch.allclose(
        attribution.attention(ToyVit(), toy_input(), layer=0, query=(0, 1)),
        torch.tensor([[[0.0, 0.5]]]),
    )
    with pytest.raises(ValueError, match="grid is 1 rows by 2 columns"):
        attribution.attention(ToyVit(), toy_input(), query=(1, 0))


@pytest.mark.parametrize("name", ["resnet18", "densenet201"])
def test_grad_cam_equals_captum(name):
    # in double precision, so that 1e-6 speaks of the method, not of rounding
    net = models.create(name, side_px=96, weights="none").double()
    x = patches(net, 2).double()
    layers = {"resnet18": "layer4", "densenet201": "features"}
    peer = LayerGradCam(net, getattr(net.backbone, layers[name]))
    scores = torch.tensor([1, 3])
    expected = peer.attribute(x, scores, relu_attributions=False)[:, 0]
    maps = attribution.grad_cam(net, x, scores)
    assert maps.shape == (2, 3, 3)
    assert (maps - expected).abs().max() <= 1e-6 * expected.abs().max() > 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("score", [2, "1+|2+", "expected"])
def test_features_and_gradient_equal_one_backward_pass_through_the_whole_network(name, score):
    net = network(name)
    x = patches(net, 2)
    tap = net.tap(x.clone().requires_grad_())
    wanted = torch.autograd.grad(attribution.explained(tap.logits, score).sum(), tap.features)[0]
    features, gradient = attribution.features_gradient(net, x, score)
    assert torch.allclose(features, tap.features, atol=1e-6)
    assert torch.allclose(gradient, wanted, atol=1e-7, rtol=1e-5)
    assert not features.requires_grad and not gradient.requires_grad  # noqa: PT018
    assert wanted.abs().max() > 0


def test_hires_cam_and_grad_cam_are_one_where_the_mean_feeds_a_linear_layer():
    net = network("resnet18", 96)
    hires = attribution.hires_cam(net, patches(net), 1)
    grad = attribution.grad_cam(net, patches(net), 1)
    assert torch.allclose(hires, grad, atol=1e-7)
    assert grad.std() > 0


def test_rollout_and_relevance_equal_whole_matrix_products():
    net = network("vit_tiny")
    x = patches(net, 2)
    tap = net.tap(x, attention=range(12))
    gradients = torch.autograd.grad(tap.logits[:, 2].sum(), [tap.attention[i] for i in range(12)])
    rolled = relevant = torch.eye(17).expand(2, 17, 17)
    for i, gradient in enumerate(gradients):
        rolled = (0.5 * torch.eye(17) + 0.5 * tap.attention[i].detach().mean(1)) @ rolled
        relevant = relevant + (gradient * tap.attention[i].detach()).clamp(min=0).mean(1) @ relevant
    assert torch.allclose(attribution.rollout(net, x), rolled[:, 0, 1:].reshape(2, 4, 4), atol=1e-7)
    assert torch.allclose(
        attribution.relevance(net, x, 2), relevant[:, 0, 1:].reshape(2, 4, 4), rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_a_batch_equals_its_patches_one_by_one(name, method):
    net, score = network(name), torch.tensor([0, 3, 1])
    x = patches(net)
    if (
        method == "integrated_gradients"
    ):  # in single precision a ReLU at zero may flip with the batch, once 2e-5 of 7e-3
        net, x = copy.deepcopy(net).double(), x.double()
    together = run(method, net, x, score)
    alone = torch.cat([run(method, net, x[i : i + 1], int(score[i])) for i in range(3)])
    assert together.ndim == 3
    assert not together.requires_grad
    assert (together - alone).abs().max() <= 1e-5
    assert together.isfinite().all()


def state(net, x):
    hooks = [
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in net.modules()
    ]
    fused = [getattr(m, "fused_attn", None) for m in net.modules()]
    training, wanted = (
        [m.training for m in net.modules()],
        [p.requires_grad for p in net.parameters()],
    )
    gradients, random = [p.grad for p in net.parameters()], torch.get_rng_state().tolist()
    return hooks, fused, training, wanted, gradients, x.requires_grad, x.grad, random


def disordered(name):
    """A network in a state no one would restore by accident: half in training mode, half frozen."""
    net = models.create(name, side_px=32, weights="none")
    for i, module in enumerate(net.modules()):
        module.training = i % 2 == 0
    for i, parameter in enumerate(net.parameters()):
        parameter.requires_grad = i % 2 == 0
    return net


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_left_behind_after_success_and_after_an_error(name, monkeypatch):
    net = disordered(name)
    x = patches(net, 2)
    before, values = state(net, x), {k: v.clone() for k, v in net.state_dict().items()}
    methods = [m for n, m in PAIRS if n == name]
    for method in methods:
        run(method, net, x, 1)
        assert state(net, x) == before, f"{method} left something behind"
    if net.layers:
        attribution.last_output_cam(net, x, 1)
        assert state(net, x) == before
    assert all(torch.equal(v, values[k]) for k, v in net.state_dict().items()), (
        "batch statistics moved"
    )

    def broken(*args, **options):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(net.backbone, "forward_head", broken)
    failing = [m for m in methods if m == "blur_random" or not attribution.METHODS[m].null]
    for method in failing:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            run(method, net, x, 1)
        assert state(net, x) == before, f"{method} left something behind after an error"
    if net.layers:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            attribution.last_output_cam(net, x, 1)
        assert state(net, x) == before


def test_frozen_weights_and_inference_mode_change_nothing():
    net = models.create("resnet18", side_px=64, weights="none")
    x = patches(net)
    free = attribution.grad_cam(net, x, 1)
    net.requires_grad_(False)
    assert torch.equal(attribution.grad_cam(net, x, 1), free)
    with torch.inference_mode():
        assert torch.equal(attribution.grad_cam(net, x * 1, 1), free)


def test_dropout_and_batch_statistics_do_not_move_the_map():
    net = models.create("resnet18", side_px=64, weights="none", drop_rate=0.5)
    x = patches(net)
    quiet = attribution.grad_cam(net, x, 1)
    assert torch.equal(attribution.grad_cam(net.train(), x, 1), quiet)
    assert net.training


@pytest.mark.parametrize("name", ATTENTIVE)
def test_grad_cam_at_the_last_output_is_refused_because_it_is_exactly_zero(name):
    net = network(name)
    with pytest.raises(ValueError, match="exactly zero"):
        attribution.grad_cam(net, patches(net), 1, at="last_output")
    maps, largest = attribution.last_output_cam(net, patches(net), 1)
    assert maps.shape == (3, *net.grid)
    assert largest == 0 == maps.abs().max()
    assert attribution.grad_cam(net, patches(net), 1).abs().max() > 0


def test_a_cnn_is_told_that_it_has_no_attention():
    net = network("resnet18")
    for method in (
        attribution.attention,
        attribution.rollout,
        attribution.relevance,
        attribution.last_output_cam,
    ):
        with pytest.raises(ValueError, match="resnet18 has no attention: use grad_cam"):
            method(net, patches(net), 1)
    assert set(attribution.METHODS) - set(attribution.methods_for(net)) == {
        "attention",
        "rollout",
        "relevance",
    }
    assert set(attribution.methods_for(network("hybrid"))) == set(attribution.METHODS)


def test_the_surrogate_keeps_values_and_spectrum_but_not_the_place():
    down, across = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    hill = torch.exp(-((down - 5) ** 2 + (across - 7) ** 2) / 30)[None]
    twins = [
        attribution.surrogate(hill, [torch.Generator().manual_seed(seed)]) for seed in range(8)
    ]
    shuffled = hill.flatten()[
        torch.randperm(784, generator=torch.Generator().manual_seed(1))
    ].view_as(hill)

    def off(maps):
        return (torch.fft.rfft2(maps).abs() - torch.fft.rfft2(hill).abs()).norm() / torch.fft.rfft2(
            hill
        ).abs().norm()

    for twin in twins:
        assert torch.equal(twin.flatten().sort().values, hill.flatten().sort().values)
        assert off(twin) < 0.15 < 0.3 < off(shuffled)
    correlation = [np.corrcoef(hill.flatten(), twin.flatten())[0, 1] for twin in twins]
    assert abs(np.mean(correlation)) < 0.25
    assert len({int(twin.argmax()) for twin in twins}) > 4


def test_nulls_need_no_network_and_depend_on_the_seed_alone():
    net = network("vit_tiny")
    x = patches(net)
    assert torch.equal(attribution.random_map(net, x), attribution.random_map(net, x))
    assert not torch.equal(attribution.random_map(net, x), attribution.random_map(net, x, seed=1))
    assert not torch.equal(attribution.random_map(net, x)[0], attribution.random_map(net, x)[1])
    centre = attribution.centre_map(net, x)[0]
    assert torch.allclose(centre, centre.flip(0).flip(1))
    assert centre[1, 1] == centre.max() > centre[0, 0]


def test_dab_and_edges_see_the_picture_behind_the_input():
    net = network("resnet18")
    images = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    images[:, :, :, 32:] = torch.tensor([150, 90, 40], dtype=torch.uint8)[:, None, None]
    x = models.normalise(images, net)
    assert torch.equal(attribution.input_pixels(net, x), images)
    assert torch.equal(attribution.dab_map(net, x), stain.dab(images))
    edges, step = attribution.edge_map(net, x), 1 - (150 + 90 + 40) / 3 / 255
    assert torch.allclose(
        edges[0, :, 31:33], torch.tensor(step / 2)
    )  # the whole step over two pixels
    assert edges[0, :, :31].abs().max() < 1e-6
    assert edges[0, :, 33:].abs().max() < 1e-6


@pytest.mark.skipif(not REAL.is_dir(), reason="the real patches do not lie beside the project")
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_real_patches_are_finite_and_can_be_drawn(name):
    files = sorted(REAL.rglob("*.jpg"))[::12]
    images = [np.asarray(Image.open(file).convert("RGB").resize((64, 64))) for file in files]
    net = network(name)
    x = models.normalise(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), net)
    for method in ("grad_cam", "relevance", "blur_random")[:: 1 if net.layers else 2]:
        maps = attribution.METHODS[method].function(net, x, 2)
        assert maps.shape == (len(files), *net.grid)
        assert maps.isfinite().all()
        assert (maps[0] - maps[1]).abs().max() > 0  # it depends on the patch
        shown = plots.upsample(maps[0], (64, 64))
        assert 0 <= shown.min() <= shown.max() <= 1
