"""weights: never silently random, from the hub's cache or a file, nothing in a file runs."""

import os
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from her2lib.networks import models, weights


@pytest.fixture(scope="module")
def nets():
    return {
        name: models.create(name, side_px=64, weights="none") for name in ("resnet18", "hybrid")
    }


@pytest.fixture
def offline(monkeypatch, tmp_path):
    # The discard port: nobody answers.
    monkeypatch.setattr(weights.hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(weights.hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights.hub, "HF_HUB_OFFLINE", False)
    return tmp_path


def test_offline_imagenet_is_one_sentence_with_the_remedy(offline):
    remedy = r"not in the cache folder .*FILE.safetensors\", or weights=\"none\""
    for network in ("resnet18", "hybrid"):
        with pytest.raises(OSError, match=remedy) as caught:
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
    net = models.create("resnet18", side_px=64)
    cnn = models.create("hybrid", side_px=64).backbone.patch_embed.backbone
    assert torch.equal(net.backbone.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert torch.equal(cnn.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
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
        with pytest.warns(UserWarning, match="head of 1000 outputs") as caught:
            net = models.create("resnet18", side_px=64, weights=tmp_path / "theirs.pth")
        assert caught[0].filename == __file__
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
        sentence = r"layer1.0.conv1.weight is \(8, 64, 3, 3\) in the file and \(64, 64, 3, 3\)"
        with pytest.raises(ValueError, match=sentence):
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

    def test_a_file_of_something_else_is_refused(self, tmp_path):
        torch.save([torch.zeros(1)], tmp_path / "list.pth")
        with pytest.raises(ValueError, match="holds no table of named weights"):
            weights.read_weights(tmp_path / "list.pth")
