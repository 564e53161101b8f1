"""models: sizes, the tap contract, weights that are never silently random, and the frozen-feature probe."""

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from her2lib.networks import encoders, models, weights
from her2lib.scores import parse_score

REAL = Path(__file__).parents[3] / "shared" / "real"

SMALL = [("resnet18", 64), ("densenet201", 64), ("hybrid", 64), ("vit_tiny", 64)]


@pytest.fixture(scope="module")
def nets():
    return {name: models.create(name, side_px=side, weights="none") for name, side in SMALL}


def patches(n, side_px, seed=0):
    return torch.randint(
        0,
        256,
        (n, 3, side_px, side_px),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )


def state_of(net):
    hooks = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in net.modules()
    )
    fused = [m.fused_attn for m in net.modules() if hasattr(m, "fused_attn")]
    return (
        hooks,
        fused,
        [m.training for m in net.modules()],
        [p.grad is None for p in net.parameters()],
    )


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
    x = models.normalise(patches(1, 224), net)
    with torch.inference_mode():
        tap, logits = net.tap(x, attention=(0, -1) if tokens else ()), net(x)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert net.grid == grid
    assert tap.features.shape == (1, channels, *grid)
    assert tap.embedding.shape == (1, channels)
    assert (tap.stem is None) if stem is None else tap.stem.shape == stem
    assert {k: tuple(v.shape[1:]) for k, v in tap.attention.items()} == (
        {0: tokens, -1: tokens} if tokens else {}
    )
    assert (tap.logits - logits).abs().max() < 1e-5


def test_vit_b16_is_the_one_of_the_study():
    with torch.device("meta"):
        vit = timm.create_model(models.BACKBONES["vit_b16"], num_classes=4)
    assert (len(vit.blocks), vit.blocks[0].attn.num_heads, vit.blocks[0].mlp.fc1.out_features) == (
        12,
        12,
        3072,
    )
    assert vit.patch_embed.patch_size == (16, 16)


@pytest.mark.parametrize(
    ("network", "step_px", "side_px"),
    [
        ("resnet18", 32, 112),
        ("resnet18", 32, 384),
        ("resnet18", 32, 512),
        ("hybrid", 32, 112),
        ("hybrid", 32, 512),
    ]
    + [("vit_tiny", 16, side_px) for side_px in (112, 224, 384, 512)],
)
def test_any_side_length(network, step_px, side_px):
    net = models.create(network, side_px=side_px, weights="none")
    with torch.inference_mode():
        tap = net.tap(models.normalise(patches(1, side_px), net))
    assert tap.features.shape[2:] == net.grid == (-(-side_px // step_px),) * 2
    assert tap.logits.shape == (1, 4)


def test_tap_agrees_with_forward_and_leaves_nothing_behind(nets):
    for net in nets.values():
        before, x = state_of(net), models.normalise(patches(2, 64), net)
        with torch.no_grad():
            tap = net.tap(x, attention=range(net.layers))
            assert (tap.logits - net(x)).abs().max() < 1e-5
        assert state_of(net) == before
        assert sorted(tap.attention) == list(range(net.layers))
        for attention in tap.attention.values():
            assert attention.shape[1:] == (
                net.heads,
                *2 * (net.prefix_tokens + net.grid[0] * net.grid[1],),
            )
            assert torch.allclose(attention.sum(-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("network", ["vit_tiny", "hybrid"])
def test_a_tap_that_raises_leaves_nothing_behind(nets, network, monkeypatch):
    net = nets[network].train()
    before = state_of(net)
    monkeypatch.setattr(net.backbone.norm, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.tap(models.normalise(patches(2, 64), net), attention=(0, 1))
    assert state_of(net) == before
    net.eval()


def test_attention_is_the_softmax_of_queries_and_keys(nets):
    net = nets["vit_tiny"]
    x = models.normalise(patches(1, 64), net)
    with torch.no_grad():
        tokens = net.backbone.norm_pre(net.backbone._pos_embed(net.backbone.patch_embed(x)))
        block = net.backbone.blocks[0]
        parts = block.attn.qkv(block.norm1(tokens))[0].reshape(
            -1, 3, 3, 64
        )  # (T,3*heads*64) -> (T,3,heads,64)
        query, key, _ = parts.permute(1, 2, 0, 3)
        wanted = (query @ key.mT / 8).softmax(-1)
        assert torch.allclose(net.tap(x, attention=(0,)).attention[0][0], wanted, atol=1e-6)


def test_the_gradient_of_a_pooled_cnn_is_its_weight_over_the_places(nets):
    net = nets["resnet18"]
    tap = net.tap(models.normalise(patches(1, 64), net))
    (gradient,) = torch.autograd.grad(tap.logits[0, 2], tap.features)
    wanted = net.backbone.fc.weight[2] / 4  # 64 px: a grid of 2 x 2 is averaged
    assert torch.allclose(gradient[0], wanted[:, None, None].expand(-1, 2, 2), atol=1e-8)


@pytest.mark.parametrize("network", ["vit_tiny", "hybrid"])
def test_logits_can_be_differentiated_by_features_and_attention(nets, network):
    net = nets[network]
    tap = net.tap(models.normalise(patches(2, 64), net), attention=(0, -1))
    sought = [tap.features, *tap.attention.values()]
    assert all(
        gradient.abs().max() > 0 for gradient in torch.autograd.grad(tap.logits[:, 1].sum(), sought)
    )
    assert all(p.grad is None for p in net.parameters())


def test_features_are_the_tokens_entering_the_last_block(nets):
    net = nets["vit_tiny"]
    x = models.normalise(patches(2, 64), net)
    with torch.no_grad():
        tokens = net.backbone.forward_intermediates(x, indices=[10], intermediates_only=True)[0]
        assert torch.equal(net.tap(x).features, tokens)


@pytest.mark.parametrize(
    ("wrong", "words"),
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
def test_errors_are_sentences_with_the_remedy(nets, wrong, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        wrong(nets)


def test_the_seed_decides_and_the_callers_chance_is_untouched():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b, c = (
        models.create("resnet18", side_px=64, weights="none", seed=seed).backbone.fc.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rebuild_keeps_the_weights_and_changes_the_options(nets):
    net = nets["vit_tiny"]
    copy, x = models.rebuild(net, drop_path_rate=0.2), torch.rand(1, 3, 64, 64)
    assert copy.backbone.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert torch.equal(copy(x), net(x))
    assert copy.config == net.config | {"drop_path_rate": 0.2}


def test_normalise_uses_the_mean_of_the_weights(nets):
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    assert torch.allclose(
        models.normalise(white, nets["vit_tiny"]), torch.ones(())
    )  # (1 - 0.5) / 0.5
    found = models.normalise(white, nets["resnet18"])[0, :, 0, 0]
    assert torch.allclose(found, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(
        weights.hub, "ENDPOINT", "http://127.0.0.1:9"
    )  # the discard port: nobody answers
    monkeypatch.setattr(weights.hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights.hub, "HF_HUB_OFFLINE", False)
    return tmp_path


def test_offline_imagenet_is_one_sentence_with_the_remedy(offline):
    for network in ("resnet18", "hybrid"):
        with pytest.raises(
            OSError, match=r"not in the cache folder .*FILE.safetensors\", or weights=\"none\""
        ) as caught:
            models.create(network, side_px=64)
        assert "\n" not in str(caught.value)
    assert weights.hub.HF_HUB_OFFLINE is False


def test_imagenet_comes_from_the_cache_folder_when_offline(offline):
    theirs = timm.create_model("resnet18", num_classes=1000)
    cache = offline / "models--timm--resnet18.tv_in1k"
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    save_file(theirs.state_dict(), cache / "snapshots" / "abc" / "model.safetensors")
    net, hybrid = (models.create(name, side_px=64) for name in ("resnet18", "hybrid"))
    assert torch.equal(net.backbone.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert torch.equal(
        hybrid.backbone.patch_embed.backbone.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight
    )
    assert net.backbone.fc.weight.shape == (4, 512)


class TestFiles:
    def test_own_file_comes_back(self, nets, tmp_path):
        save_file(nets["hybrid"].state_dict(), tmp_path / "own.safetensors")
        again = models.create("hybrid", side_px=64, weights=tmp_path / "own.safetensors", seed=9)
        x = torch.rand(1, 3, 64, 64)
        assert torch.equal(again(x), nets["hybrid"](x))

    def test_a_backbone_file_leaves_its_head_out_and_says_so(self, tmp_path):
        theirs = timm.create_model("resnet18", num_classes=1000)
        torch.save({"state_dict": theirs.state_dict()}, tmp_path / "theirs.pth")
        with pytest.warns(UserWarning, match="head of 1000 outputs"):
            net = models.create("resnet18", side_px=64, weights=tmp_path / "theirs.pth")
        assert torch.equal(net.backbone.conv1.weight, theirs.conv1.weight)
        hybrid = models.create("hybrid", side_px=64, weights=tmp_path / "theirs.pth")
        assert torch.equal(hybrid.backbone.patch_embed.backbone.conv1.weight, theirs.conv1.weight)

    def test_positions_are_resampled_to_the_grid(self, tmp_path):
        theirs = timm.create_model("vit_tiny_patch16_224", num_classes=4)
        save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
        net = models.create("vit_tiny", side_px=112, weights=tmp_path / "vit.safetensors")
        wanted = resample_abs_pos_embed(theirs.pos_embed, [7, 7], num_prefix_tokens=1)
        assert torch.equal(net.backbone.pos_embed, wanted)

    def test_a_wrong_shape_is_named_with_both_shapes(self, nets, tmp_path):
        state = nets["resnet18"].state_dict()
        state["backbone.layer1.0.conv1.weight"] = torch.zeros(8, 64, 3, 3)
        save_file(state, tmp_path / "odd.safetensors")
        with pytest.raises(
            ValueError,
            match=r"layer1.0.conv1.weight is \(8, 64, 3, 3\) in the file and \(64, 64, 3, 3\)",
        ):
            models.create("resnet18", side_px=64, weights=tmp_path / "odd.safetensors")

    def test_a_missing_weight_and_a_foreign_file_are_refused(self, nets, tmp_path):
        state = nets["resnet18"].state_dict()
        del state["backbone.layer1.0.conv1.weight"]
        save_file(state, tmp_path / "less.safetensors")
        with pytest.raises(ValueError, match=r"lacks backbone.layer1.0.conv1.weight"):
            models.create("resnet18", side_px=64, weights=tmp_path / "less.safetensors")
        save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
        with pytest.raises(ValueError, match="holds no weights of resnet18; its first is 'a'"):
            models.create("resnet18", side_px=64, weights=tmp_path / "foreign.safetensors")

    def test_a_pickle_that_runs_code_is_refused_and_does_not_run(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        (tmp_path / "bad.pth").write_bytes(pickle.dumps({"conv1.weight": Malicious()}))
        torch.save({"conv1.weight": Malicious()}, tmp_path / "bad2.pth")
        for name in ("bad.pth", "bad2.pth"):
            with pytest.raises(ValueError, match="was refused"):
                models.create("resnet18", side_px=64, weights=tmp_path / name)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", ["broken.safetensors", "broken.pth"])
    def test_a_damaged_file_is_refused(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"\x00not a model")
        with pytest.raises(ValueError, match="was refused"):
            weights.read_weights(tmp_path / name)


class TestProbe:
    def test_features_are_the_encoders_own_and_computed_once(self, tmp_path, monkeypatch):
        images = patches(3, 48)
        first = encoders.frozen_features(
            "vit_tiny_patch16_224", images, folder=tmp_path, weights="none", progress=False
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
        larger = torch.nn.functional.interpolate(
            images.float() / 255, (224, 224), mode="bilinear", antialias=True
        )
        with torch.no_grad():
            assert np.allclose(
                first, encoder(larger * 2 - 1).numpy(), atol=0.05
            )  # resized as uint8, so within a grey level
        monkeypatch.setattr(models.timm, "create_model", None)
        again = encoders.frozen_features(
            "vit_tiny_patch16_224", images, folder=tmp_path, weights="none", progress=False
        )
        assert np.array_equal(first, again)
        with pytest.raises(TypeError):  # other patches, so the encoder is needed again
            encoders.frozen_features(
                "vit_tiny_patch16_224",
                patches(3, 48, seed=1),
                folder=tmp_path,
                weights="none",
                progress=False,
            )
        assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]

    @pytest.mark.parametrize("head", ["logistic", "ordinal"])
    def test_heads_find_scores_that_lie_in_order(self, head):
        score = np.repeat([0, 1, 2, 3], 20)
        features = score[:, None] + 0.1 * np.random.default_rng(0).standard_normal((80, 3))
        answer = encoders.fit_head(features, score, head=head, C=10.0)(features)
        assert answer.shape == (80, 4)
        assert np.allclose(answer.sum(1), 1, atol=1e-6)
        assert (answer >= 0).all()
        assert (answer.argmax(1) == score).mean() > 0.95

    @pytest.mark.parametrize("head", ["logistic", "ordinal"])
    def test_a_score_never_seen_gets_nothing(self, head):
        score = np.repeat([0, 1, 2], 10)
        answer = encoders.fit_head(score[:, None] + 0.0, score, head=head)(np.arange(4.0)[:, None])
        assert np.allclose(answer[:, 3], 0)
        assert np.allclose(answer.sum(1), 1, atol=1e-6)

    def test_on_real_patches_each_core_is_scored_by_a_head_that_never_saw_it(
        self, tmp_path, capsys
    ):
        if not (REAL / "manifest.csv").is_file():
            pytest.skip("the real patches are not here")
        rows = pd.read_csv(REAL / "manifest.csv")
        pictures = [
            np.asarray(Image.open(REAL / path).convert("RGB").resize((96, 96)))
            for path in rows.path
        ]
        images, score = (
            torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2),
            np.array([parse_score(word) for word in rows.score]),
        )
        features = encoders.frozen_features(
            "resnet18", images, folder=tmp_path, weights="none", progress=False
        )
        answer = np.full((len(rows), 4), np.nan)
        for core in rows.slide.unique():
            out = (rows.slide == core).to_numpy()
            answer[out] = encoders.fit_head(features[~out], score[~out])(features[out])
        assert np.allclose(answer.sum(1), 1, atol=1e-6)
        right = (answer.argmax(1) == score).mean()
        with (
            capsys.disabled()
        ):  # what it honestly gets from random weights, and no bar: eight cores decide nothing
            print(
                f"\nreal patches, leave one core out, frozen random ResNet18: {right:.0%} of {len(rows)} right, "
                f"always the commonest score {np.bincount(score).max() / len(score):.0%}"
            )

    def test_an_unknown_head_is_refused(self):
        with pytest.raises(ValueError, match="Did you mean 'ordinal'"):
            encoders.fit_head(np.zeros((4, 1)), np.arange(4), head="ordnal")
