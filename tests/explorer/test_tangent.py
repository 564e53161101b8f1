"""The tangent: maps of all scores from one pass are those of the network itself."""

import pytest
import torch

from her2lib.explorer import answers, tangent
from her2lib.networks import models


@pytest.mark.parametrize("network", ["resnet18", "vit_tiny", "hybrid"])
def test_the_networks_tangent_gives_every_map_that_the_network_gives(network):
    net = models.create(network, side_px=64, weights="none")
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    copy = tangent.Tangent(net, x)
    for request in answers.page_requests(net):
        exact = answers.compute_maps(net, x, *request, map_px=56)
        quick = answers.compute_maps(copy, x, *request, map_px=56)
        assert torch.allclose(quick, exact, atol=1e-6, rtol=2e-4), request
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_tangent_has_the_networks_own_logits():
    net = models.create("resnet18", side_px=64, weights="none").eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = net(x)
    assert torch.allclose(tangent.Tangent(net, x).tap(x).logits, logits, atol=1e-5)
