"""models: sizes, the tap contract, what is read as network input and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from examples_networks import random_images, small, toy

from her2lib.networks import models

NETWORKS = ("resnet18", "densenet201", "hybrid", "vit_tiny")
WHITE = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)


@pytest.fixture(scope="module")
def nets():
    return {name: models.create(name, side_px=64, weights="none") for name in NETWORKS}


def state_of(net):
    """What a call may not change: hooks, fused flags, training modes, gradients."""
    hooks = [
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in net.modules()
    ]
    return (
        sum(hooks),
        [m.fused_attn for m in net.modules() if hasattr(m, "fused_attn")],
        [m.training for m in net.modules()],
        [p.grad is None for p in net.parameters()],
    )


# --- the networks of the study -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "millions", "grid", "channels", "stem", "tokens"),
    [
        ("resnet18", 11.2, (7, 7), 512, None, None),
        ("densenet201", 18.1, (7, 7), 1920, None, None),
        ("vit_b16", 85.8, (14, 14), 768, None, (12, 197, 197)),
        ("hybrid", 24.1, (7, 7), 512, (1, 512, 7, 7), (8, 50, 50)),
    ],
)
def test_the_four_networks_of_the_study_at_224_px(network, millions, grid, channels, stem, tokens):
    net = models.create(network, side_px=224, weights="none")
    x = models.normalise(random_images(1, 224), net)
    layers = (0, -1) if tokens else ()
    with torch.inference_mode():
        tap = net.tap(x, attention=layers)
        logits = net(x)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert net.grid == grid
    assert tap.features.shape == (1, channels, *grid)
    assert tap.embedding.shape == (1, channels)
    if stem is None:
        assert tap.stem is None
    else:
        assert tap.stem.shape == stem
    shapes = {layer: tuple(attention.shape[1:]) for layer, attention in tap.attention.items()}
    assert shapes == dict.fromkeys(layers, tokens)
    assert (tap.logits - logits).abs().max() < 1e-5


def test_vit_b16_is_the_one_of_the_study():
    with torch.device("meta"):
        vit = timm.create_model(models.BACKBONES["vit_b16"], num_classes=4)
    assert len(vit.blocks) == 12
    assert vit.blocks[0].attn.num_heads == 12
    assert vit.blocks[0].mlp.fc1.out_features == 3072
    assert vit.patch_embed.patch_size == (16, 16)


@pytest.mark.parametrize(
    ("network", "step_px", "side_px"),
    [
        ("resnet18", 32, 112),
        ("resnet18", 32, 384),
        ("resnet18", 32, 512),
        ("hybrid", 32, 112),
        ("hybrid", 32, 512),
        ("vit_tiny", 16, 112),
        ("vit_tiny", 16, 224),
        ("vit_tiny", 16, 384),
        ("vit_tiny", 16, 512),
    ],
)
def test_any_side_length(network, step_px, side_px):
    net = models.create(network, side_px=side_px, weights="none")
    with torch.inference_mode():
        tap = net.tap(models.normalise(random_images(1, side_px), net))
    assert tap.features.shape[2:] == net.grid == (-(-side_px // step_px),) * 2
    assert tap.logits.shape == (1, 4)


# --- the tap -----------------------------------------------------------------------------------


def test_tap_agrees_with_forward_and_leaves_nothing_behind(nets):
    for net in nets.values():
        before = state_of(net)
        x = models.normalise(random_images(2, 64), net)
        with torch.no_grad():
            tap = net.tap(x, attention=range(net.layers))
            assert (tap.logits - net(x)).abs().max() < 1e-5
        assert state_of(net) == before
        assert sorted(tap.attention) == list(range(net.layers))
        n_tokens = net.prefix_tokens + net.grid[0] * net.grid[1]
        for attention in tap.attention.values():
            assert attention.shape[1:] == (net.heads, n_tokens, n_tokens)
            assert torch.allclose(attention.sum(-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("network", ["vit_tiny", "hybrid"])
def test_a_tap_that_raises_leaves_nothing_behind(nets, network, monkeypatch):
    net = nets[network].train()
    before = state_of(net)
    monkeypatch.setattr(net.backbone.norm, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.tap(models.normalise(random_images(2, 64), net), attention=(0, 1))
    assert state_of(net) == before
    net.eval()


def test_attention_is_the_softmax_of_queries_and_keys(nets):
    net = nets["vit_tiny"]
    x = models.normalise(random_images(1, 64), net)
    with torch.no_grad():
        tokens = net.backbone.norm_pre(net.backbone._pos_embed(net.backbone.patch_embed(x)))
        block = net.backbone.blocks[0]
        # (T,3*heads*64) -> (T,3,heads,64)
        parts = block.attn.qkv(block.norm1(tokens))[0].reshape(-1, 3, 3, 64)
        query, key, _ = parts.permute(1, 2, 0, 3)
        wanted = (query @ key.mT / 8).softmax(-1)
        assert torch.allclose(net.tap(x, attention=(0,)).attention[0][0], wanted, atol=1e-6)


def test_the_gradient_of_a_pooled_cnn_is_its_weight_over_the_places(nets):
    net = nets["resnet18"]
    tap = net.tap(models.normalise(random_images(1, 64), net))
    (gradient,) = torch.autograd.grad(tap.logits[0, 2], tap.features)
    # 64 px: a grid of 2 x 2 is averaged.
    wanted = net.backbone.fc.weight[2] / 4
    assert torch.allclose(gradient[0], wanted[:, None, None].expand(-1, 2, 2), atol=1e-8)


@pytest.mark.parametrize("network", ["vit_tiny", "hybrid"])
def test_logits_can_be_differentiated_by_features_and_attention(nets, network):
    net = nets[network]
    tap = net.tap(models.normalise(random_images(2, 64), net), attention=(0, -1))
    sought = [tap.features, *tap.attention.values()]
    gradients = torch.autograd.grad(tap.logits[:, 1].sum(), sought)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert all(p.grad is None for p in net.parameters())


def test_features_are_the_tokens_entering_the_last_block(nets):
    net = nets["vit_tiny"]
    x = models.normalise(random_images(2, 64), net)
    with torch.no_grad():
        tokens = net.backbone.forward_intermediates(x, indices=[10], intermediates_only=True)[0]
        assert torch.equal(net.tap(x).features, tokens)


# --- making networks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            lambda nets: models.create("resnet81", side_px=64, weights="none"),
            "Did you mean 'resnet18'",
        ),
        (lambda nets: models.create("vit_tiny", side_px=100, weights="none"), "multiple of 16"),
        (
            lambda nets: models.create("resnet18", side_px=64, weights="no.safetensors"),
            "not a weights file",
        ),
        (
            lambda nets: nets["resnet18"].tap(torch.zeros(1, 3, 64, 64), attention=(0,)),
            "no attention",
        ),
        (
            lambda nets: nets["vit_tiny"].tap(torch.zeros(1, 3, 64, 64), attention=(12,)),
            "layers 0 to 11",
        ),
        (lambda nets: nets["vit_tiny"](torch.zeros(1, 3, 32, 32)), "created for side_px=64"),
    ],
)
def test_errors_are_sentences_with_the_remedy(nets, wrong, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        wrong(nets)


def test_the_seed_decides_and_the_callers_chance_is_untouched():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (
        models.create("resnet18", side_px=64, weights="none", seed=seed).backbone.fc.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rebuild_keeps_the_weights_and_changes_the_options(nets):
    net = nets["vit_tiny"]
    copy = models.rebuild(net, drop_path_rate=0.2)
    x = torch.rand(1, 3, 64, 64)
    assert copy.backbone.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert torch.equal(copy(x), net(x))
    assert copy.config == net.config | {"drop_path_rate": 0.2}


# --- from pixels to network input --------------------------------------------------------------


def test_normalise_uses_the_mean_of_the_weights(nets):
    # (1 - 0.5) / 0.5
    assert torch.allclose(models.normalise(WHITE, nets["vit_tiny"]), torch.ones(()))
    white = models.normalise(WHITE, nets["resnet18"])[0, :, 0, 0]
    assert torch.allclose(white, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


@pytest.mark.parametrize("images", [WHITE.float(), WHITE.long(), WHITE.numpy(), None])
def test_normalise_refuses_anything_but_a_uint8_tensor(nets, images):
    with pytest.raises(ValueError, match="normalise takes a uint8 tensor") as caught:
        models.normalise(images, nets["resnet18"])
    assert "\n" not in str(caught.value)


def test_what_is_read_as_input_is_normalised_once():
    net = small()
    patches = toy(4)
    wanted = models.normalise(patches.images, net)
    assert torch.equal(models.as_input(net, patches), wanted)
    assert torch.equal(models.as_input(net, patches.images), wanted)
    assert torch.equal(models.as_input(net, patches.images.numpy()), wanted)
    assert torch.equal(models.as_input(net, SimpleNamespace(images=patches.images)), wanted)
    assert models.as_input(net, wanted) is wanted


def test_arrays_that_torch_cannot_share_are_copied():
    images = toy(4).images.numpy()
    read_only = images.copy()
    read_only.setflags(write=False)
    assert np.array_equal(models.uint8_images(read_only).numpy(), images)
    assert np.array_equal(models.uint8_images(images[::-1]).numpy(), images[::-1])


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (WHITE.numpy() / 255, r"normalised or float images.*a float64 array"),
        (WHITE.long(), r"a int64 tensor"),
        ([WHITE], "no images at all .a list."),
        (WHITE[0], r"shape \(3, 64, 64\) are not \(N,3,H,W\)"),
        (WHITE.permute(0, 2, 3, 1), r"shape \(1, 64, 64, 3\) are not \(N,3,H,W\)"),
    ],
)
def test_what_is_no_stack_of_patches_is_refused_as_input(images, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.as_input(small(), images)
