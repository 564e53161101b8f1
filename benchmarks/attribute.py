"""Maps beside their peers in one process: `python benchmarks/attribute.py [patches]`.

Interleaved rounds, the best one counts. On a CPU all run in one thread and processor seconds count:
on a busy machine the wall clock gave ratios off by a factor of five.
"""

import gc
import os
import platform
import sys
import time
from functools import partial
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

SIDE_PX = 224
BATCH = 16
TEST_PATCHES = 977  # the BCI test set
NETWORKS = ("resnet18", "densenet201", "vit_b16", "hybrid")
IMPUTED = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of the pixels


def main():
    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    else:
        torch.set_num_threads(1)
    packages = [f"{name} {version(name)}" for name in ("torch", "timm", "captum", "grad-cam")]
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, {device}; "
        f"{', '.join(packages)}; load {os.getloadavg()[0]:.1f}"
    )
    patches = 100
    if len(sys.argv) > 1:
        patches = int(sys.argv[1])
    grad_cam(device)
    transformer(device)
    memory(device)
    road(device)
    removal(device, patches)
    if device == "cuda":
        whole_test_set(device)
    else:
        print("No GPU here: 977 patches in at most 10 s a network is not measured.")


# --- maps ---------------------------------------------------------------------------------------


def grad_cam(device):
    """Grad-CAM beside plain inference, pytorch-grad-cam and Captum."""
    net = _net("resnet18", device)
    x = _input(device)
    targets = [ClassifierOutputTarget(1)] * BATCH
    peer = GradCAM(model=net, target_layers=[net.backbone.layer4])
    captum = LayerGradCam(net, net.backbone.layer4)
    seconds = best(
        7,
        plain=partial(_plain, net, x),
        ours=partial(attribution.grad_cam, net, x, 1),
        peer=partial(peer, input_tensor=x, targets=targets),
        captum=partial(captum.attribute, x, 1),
    )
    print({name: f"{BATCH / s:.1f} img/s" for name, s in seconds.items()})
    fraction = seconds["plain"] / seconds["ours"]
    at_least("Grad-CAM, ResNet18, batch 16: share of plain inference's patches", fraction, 0.85)
    at_least("Grad-CAM: times pytorch-grad-cam", seconds["peer"] / seconds["ours"], 3)
    at_least("Grad-CAM: times Captum", seconds["captum"] / seconds["ours"], 1.8)


def transformer(device):
    """Rollout and relevance beside the passes that they cannot do without."""
    batch = 4
    if device == "cuda":
        batch = BATCH
    net = _net("vit_b16", device)
    x = _input(device)[:batch]
    seconds = best(
        4,
        unfused=partial(_unfused, net, x),
        both_ways=partial(_both_ways, net, x),
        rollout=partial(attribution.rollout, net, x),
        relevance=partial(attribution.relevance, net, x, 1),
    )
    print({name: f"{batch / s:.1f} img/s" for name, s in seconds.items()})
    at_least(
        f"Rollout, ViT-B/16, batch {batch}: share of an unfused inference forward",
        seconds["unfused"] / seconds["rollout"],
        0.6,
    )
    at_least(
        "Relevance, ViT-B/16: share of forward + backward to attention",
        seconds["both_ways"] / seconds["relevance"],
        0.6,
    )


def memory(device, calls=1000):
    """Memory that a thousand maps leave behind."""
    process = psutil.Process(os.getpid())
    grown = {}
    for name, method in (("resnet18", attribution.grad_cam), ("vit_tiny", attribution.relevance)):
        net = models.create(name, side_px=32, weights="none").to(device)
        x = torch.rand(2, 3, 32, 32, device=device)
        for call in range(calls + 1):
            method(net, x, 1)
            # the first fifth fills caches
            if call == calls // 5:
                gc.collect()
                before = process.memory_info().rss
        gc.collect()
        grown[name] = (process.memory_info().rss - before) / 2**20
    title = f"Memory grown over the last {calls * 4 // 5} of {calls} calls, MiB, worse of two"
    at_most(title, max(grown.values()), 8)


def whole_test_set(device):
    """Seconds of the maps of a whole test set."""
    for name in NETWORKS:
        net = _net(name, device)
        x = torch.randn(TEST_PATCHES, 3, SIDE_PX, SIDE_PX, device=device)
        methods = [attribution.grad_cam]
        if net.layers:
            methods.append(attribution.relevance)
        seconds = best(2, all=partial(_all_maps, net, x, methods))["all"]
        names = " + ".join(method.__name__ for method in methods)
        at_most(f"{name}: {TEST_PATCHES} patches, {names}, seconds", seconds, 10)


def _all_maps(net, x, methods):
    for method in methods:
        for part in x.split(128):
            method(net, part, 1)


def _unfused(net, x):
    """An inference pass that writes its attention down."""
    fused = [block.attn.fused_attn for block in net.backbone.blocks]
    for block in net.backbone.blocks:
        block.attn.fused_attn = False
    _plain(net, x)
    for block, before in zip(net.backbone.blocks, fused, strict=True):
        block.attn.fused_attn = before


def _both_ways(net, x):
    """A pass forward and backward to the attention of all layers."""
    tap = net.tap(x.clone().requires_grad_(), attention=range(net.layers))
    torch.autograd.grad(tap.logits[:, 1].sum(), list(tap.attention.values()))


# --- faithfulness -------------------------------------------------------------------------------


def removal(device, patches):
    """Deletion and insertion beside the forward passes that they consist of."""
    net = _net("resnet18", device)
    ours = bare = 0.0
    for start in range(0, patches, BATCH):
        x = _input(device, seed=start)[: patches - start]
        maps = torch.rand(len(x), 7, 7, device=device)
        seconds = best(1, ours=partial(_both_curves, net, x, maps), bare=partial(_passes, net, x))
        ours += seconds["ours"]
        bare += seconds["bare"]
    title = f"Deletion + insertion, {patches} patches x 20 steps: times bare forward passes"
    at_most(title, ours / bare, 1.15)


def _both_curves(net, x, maps):
    faithfulness.deletion(net, x, maps=maps, score=1)
    faithfulness.insertion(net, x, maps=maps, score=1)


def _passes(net, x):
    for _ in range(2 * 21):
        _plain(net, x)


def road(device):
    """ROAD's imputation beside pytorch-grad-cam's: seconds, and the largest difference."""
    drawn = [dataset.make_patch(s, side_px=SIDE_PX, mpp=2.0, truth=False).image for s in range(4)]
    images = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float().div(255)
    images = images.repeat(4, 1, 1, 1)  # (16,3,224,224)
    maps = F.interpolate(torch.rand(BATCH, 1, 7, 7), (SIDE_PX, SIDE_PX), mode="bilinear")[:, 0]
    ours = peer = difference = 0.0
    for share in IMPUTED:
        hidden = maps >= maps.flatten(1).quantile(1 - share, dim=1)[:, None, None]
        impute = partial(imputation.impute, images.to(device), hidden.to(device))
        imputed = impute().cpu()
        ours += best(3, impute=impute)["impute"] / BATCH
        # both solve the same two; ours the other 14 as well
        for patch in range(2):
            start = _clock()
            expected = NoisyLinearImputer(noise=0)(images[patch], (~hidden[patch]).float())
            peer += (_clock() - start) / 2
            difference = max(difference, (imputed[patch] - expected).abs().max().item())
    n = len(IMPUTED)
    print(f"ours {ours / n * 1e3:.1f} ms, peer {peer / n * 1e3:.0f} ms a patch and share")
    at_least(f"ROAD imputation, batch 16, {n} shares: times pytorch-grad-cam's", peer / ours, 20)
    at_most("ROAD imputation: largest difference, grey levels of 255", 255 * difference, 1)


# --- helpers ------------------------------------------------------------------------------------


def best(rounds, **calls):
    """{name: seconds} the best of interleaved rounds; the first warms up, unless it is best."""
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name] = min(seconds[name], timed(call))
    return seconds


def timed(call):
    """float, seconds of one call: wall clock on a GPU, processor time on a CPU."""
    start = _clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return _clock() - start


def at_least(title, measured, limit):
    """Prints one line of the record: title, the measured ratio, the smallest that is good."""
    _print_line(title, measured, f"at least {limit:g}", measured >= limit)


def at_most(title, measured, limit):
    """Prints one line of the record: title, the measured number, the largest that is good."""
    _print_line(title, measured, f"at most {limit:g}", measured <= limit)


def _print_line(title, measured, limit, good):
    verdict = {True: "ok", False: "MISSED"}[good]
    print(f"{title:<88} {measured:8.2f}   wanted {limit:<15} {verdict}", flush=True)


def _clock():
    if torch.cuda.is_available():
        return time.perf_counter()
    return time.process_time()


def _net(name, device):
    return models.create(name, side_px=SIDE_PX, weights="none").to(device)


def _input(device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, 3, SIDE_PX, SIDE_PX, generator=generator).to(device)


def _plain(net, x):
    with torch.no_grad():
        return net(x)


if __name__ == "__main__":
    main()
