"""Answers of a network without a browser: quantised maps, attention rows, what may be asked."""

import numpy as np
import pytest
import torch

from her2lib.explorer import answers
from her2lib.maps import attribution
from her2lib.networks import models


def test_stack_keeps_each_maps_own_range_to_half_a_step():
    maps = torch.tensor(
        [[[0.0, 1.0], [2.0, 4.0]], [[-3.0, 0.0], [0.0, 3.0]], [[5.0, 5.0], [5.0, 5.0]]]
    )
    header, content = answers.quantise(maps)
    levels = np.frombuffer(content, np.uint8).reshape(header["shape"])
    low = np.array(header["low"])[:, None, None]
    high = np.array(header["high"])[:, None, None]
    assert np.abs(low + levels * (high - low) / 255 - maps.numpy()).max() <= 6 / 255 / 2 + 1e-6


@pytest.mark.parametrize("network", ["vit_tiny", "hybrid"])
def test_attention_rows_are_those_of_attribute(network):
    net = models.create(network, side_px=64, weights="none")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rows = answers.cls_attention(net, x)
    assert rows.shape == (2, net.layers * net.heads, *net.grid)
    of_head = attribution.attention(net, x, layer=1, head=2)
    assert torch.allclose(rows[:, net.heads + 2], of_head, atol=1e-6)
    tokens = answers.token_attention(net, x, "1", "mean")
    of_token = attribution.attention(net, x, layer=1, query=(1, 0))
    assert torch.allclose(tokens[:, net.grid[1]], of_token, atol=1e-6)


def test_attention_of_tokens_in_one_head_has_the_heads_mean_as_its_mean():
    net = models.create("vit_tiny", side_px=64, weights="none")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    heads = [answers.token_attention(net, x, "2", str(head)) for head in range(net.heads)]
    mean = answers.token_attention(net, x, "2", "mean")
    assert torch.allclose(torch.stack(heads).mean(0), mean, atol=1e-6)


def test_a_page_holds_every_method_but_the_slow_ones_and_attention_of_transformers_alone():
    cnn = models.create("resnet18", side_px=64, weights="none")
    vit = models.create("vit_tiny", side_px=64, weights="none")
    methods = {request[1] for request in answers.page_requests(cnn)}
    assert methods == set(attribution.methods_for(cnn)) - set(answers.KERNEL_ONLY)
    kinds = [request[0] for request in answers.page_requests(vit)]
    assert kinds.count("tokens") == vit.layers
    assert kinds.count("attention") == 1


def test_a_method_that_knows_no_score_is_asked_for_once():
    assert answers.targets_of("rollout") == ("-",)
    assert answers.targets_of("grad_cam") == (
        *("0", "1", "2", "3"),
        "expected",
        *("0|1+", "1+|2+", "2+|3+"),
    )


def test_a_menu_names_a_null_as_one():
    assert answers.method_label("grad_cam") == "Grad-CAM"
    assert answers.method_label("rollout") == "Rollout"
    assert answers.method_label("blur_random") == "blur random (null)"
