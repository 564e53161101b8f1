"""Maps beside their peers in one process: `python benchmarks/attribute.py [patches]`; interleaved rounds, the best one counts.

On a CPU all run in one thread and processor seconds count: on a busy machine the wall clock gave ratios off by a factor of five.
"""

import gc
import os
import platform
import sys
import time
from importlib.metadata import version

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from her2lib.maps import attribution, faithfulness, imputation
from her2lib.networks import models
from her2lib.phantoms import dataset

SIDE_PX, BATCH, TEST_PATCHES = 224, 16, 977  # 977: the BCI test set
CURVES = (faithfulness.deletion, faithfulness.insertion)
NETWORKS = ("resnet18", "densenet201", "vit_b16", "hybrid")


def best(rounds, **calls):
    """{name: seconds} the best of interleaved rounds; the first warms up and counts only if it is the best."""
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name] = min(seconds[name], timed(call))
    return seconds


def timed(call):
    """float, seconds of one call: wall clock on a GPU, processor time on a CPU."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def line(what, measured, wanted, *, at_most=False):
    """Prints one line of the record: what, the measured ratio or number, the wanted one."""
    good = measured <= wanted if at_most else measured >= wanted
    limit = f"{'at most' if at_most else 'at least'} {wanted:g}"
    print(
        f"{what:<88} {measured:8.2f}   wanted {limit:<15} {'ok' if good else 'MISSED'}", flush=True
    )


def grad_cam(device):
    net, x = _net("resnet18", device), _input(device)
    targets = [ClassifierOutputTarget(1)] * BATCH
    peer, captum = (
        GradCAM(model=net, target_layers=[net.backbone.layer4]),
        LayerGradCam(net, net.backbone.layer4),
    )
    seconds = best(
        7,
        plain=lambda: _plain(net, x),
        own=lambda: attribution.grad_cam(net, x, 1),
        peer=lambda: peer(input_tensor=x, targets=targets),
        captum=lambda: captum.attribute(x, 1),
    )
    print({name: f"{BATCH / s:.1f} img/s" for name, s in seconds.items()})
    line(
        "Grad-CAM, ResNet18, batch 16: share of plain inference's patches per second",
        seconds["plain"] / seconds["own"],
        0.85,
    )
    line("Grad-CAM: times pytorch-grad-cam", seconds["peer"] / seconds["own"], 3)
    line("Grad-CAM: times Captum", seconds["captum"] / seconds["own"], 1.8)


def transformer(device, batch):
    net, x = _net("vit_b16", device), _input(device)[:batch]

    def unfused():
        fused = [block.attn.fused_attn for block in net.backbone.blocks]
        for block in net.backbone.blocks:
            block.attn.fused_attn = False
        _plain(net, x)
        for block, was in zip(net.backbone.blocks, fused, strict=True):
            block.attn.fused_attn = was

    def both_ways():
        tap = net.tap(x.clone().requires_grad_(), attention=range(net.layers))
        torch.autograd.grad(tap.logits[:, 1].sum(), list(tap.attention.values()))

    looks = dict(
        rollout=lambda: attribution.rollout(net, x),
        relevance=lambda: attribution.relevance(net, x, 1),
    )
    seconds = best(4, unfused=unfused, both_ways=both_ways, **looks)
    print({name: f"{batch / s:.1f} img/s" for name, s in seconds.items()})
    line(
        f"Rollout, ViT-B/16, batch {batch}: share of an unfused inference forward",
        seconds["unfused"] / seconds["rollout"],
        0.6,
    )
    line(
        "Relevance, ViT-B/16: share of forward + backward to attention",
        seconds["both_ways"] / seconds["relevance"],
        0.6,
    )


def memory(device, calls=1000):
    process, grown = psutil.Process(os.getpid()), {}
    for name, method in (("resnet18", attribution.grad_cam), ("vit_tiny", attribution.relevance)):
        net = models.create(name, side_px=32, weights="none").to(device)
        x = torch.rand(2, 3, 32, 32, device=device)
        for call in range(calls + 1):
            method(net, x, 1)
            if call == calls // 5:
                gc.collect()
                before = process.memory_info().rss
        gc.collect()
        grown[name] = (process.memory_info().rss - before) / 2**20
    line(
        f"Memory grown over the last {calls * 4 // 5} of {calls} calls, MiB, worse of two",
        max(grown.values()),
        8,
        at_most=True,
    )


def removal(device, patches):
    net, own, bare = _net("resnet18", device), 0.0, 0.0
    for start in range(0, patches, BATCH):
        x = _input(device, seed=start)[: patches - start]
        maps = torch.rand(len(x), 7, 7, device=device)
        seconds = best(
            1,
            own=lambda x=x, maps=maps: [removed(net, x, maps=maps, score=1) for removed in CURVES],
            bare=lambda x=x: [_plain(net, x) for _ in range(2 * 21)],
        )
        own, bare = own + seconds["own"], bare + seconds["bare"]
    line(
        f"Deletion + insertion, {patches} patches x 20 steps: times bare forward passes",
        own / bare,
        1.15,
        at_most=True,
    )


def road(device, shares=(0.1, 0.3, 0.5, 0.7, 0.9)):
    made = [
        dataset.make_patch(seed, side_px=SIDE_PX, mpp=2.0, truth=False).image for seed in range(4)
    ]
    images = (
        torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float().div(255).repeat(4, 1, 1, 1)
    )  # (16,3,224,224)
    maps = F.interpolate(torch.rand(BATCH, 1, 7, 7), (SIDE_PX, SIDE_PX), mode="bilinear")[:, 0]
    hidden = [maps >= maps.flatten(1).quantile(1 - share, dim=1)[:, None, None] for share in shares]
    imputer, own, peer, off = NoisyLinearImputer(noise=0), 0.0, 0.0, 0.0
    for gone in hidden:
        there = images.to(device), gone.to(device)
        found = imputation.impute(*there).cpu()
        own += best(3, own=lambda there=there: imputation.impute(*there))["own"] / BATCH
        kept, wanted = (~gone).float(), []
        for patch in range(2):  # both solve the same two; ours the other 14 as well
            peer += (
                timed(
                    lambda i=patch, kept=kept, wanted=wanted: wanted.append(
                        imputer(images[i], kept[i])
                    )
                )
                / 2
            )
            off = max(off, (found[patch] - wanted[patch]).abs().max().item())
    print(
        {"own": f"{own / len(shares) * 1e3:.1f} ms", "peer": f"{peer / len(shares) * 1e3:.0f} ms"},
        "a patch and share",
    )
    line(
        f"ROAD imputation, batch 16, {len(shares)} shares: times pytorch-grad-cam's solve",
        peer / own,
        20,
    )
    line(
        "ROAD imputation: largest difference from it, grey levels of 255",
        255 * off,
        1,
        at_most=True,
    )


def whole_test_set(device):
    for name in NETWORKS:
        net, x = _net(name, device), torch.randn(TEST_PATCHES, 3, SIDE_PX, SIDE_PX, device=device)
        looks = (
            [attribution.grad_cam, attribution.relevance] if net.layers else [attribution.grad_cam]
        )
        calls = [(look, net, part) for look in looks for part in x.split(128)]
        seconds = best(
            2, all=lambda calls=calls: [look(net, part, 1) for look, net, part in calls]
        )["all"]
        names = " + ".join(look.__name__ for look in looks)
        line(f"{name}: {TEST_PATCHES} patches, {names}, seconds", seconds, 10, at_most=True)


def _net(name, device):
    return models.create(name, side_px=SIDE_PX, weights="none").to(device)


def _input(device, seed=0):
    return torch.randn(
        BATCH, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(seed)
    ).to(device)


def _plain(net, x):
    with torch.no_grad():
        return net(x)


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(torch.get_num_threads() if device == "cuda" else 1)
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "timm", "captum", "grad-cam")
    )
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, {device}; {packages}; load {os.getloadavg()[0]:.1f}"
    )
    grad_cam(device)
    transformer(device, BATCH if device == "cuda" else 4)
    memory(device)
    road(device)
    removal(device, int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    whole_test_set(device) if device == "cuda" else print(
        "No GPU here: 977 patches in at most 10 s a network is not measured."
    )
