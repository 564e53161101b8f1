"""A network on its device and what moves its weights: loss, optimizer, schedule, running mean."""

from dataclasses import dataclass

import torch
from timm.utils import ModelEmaV3

from her2lib.networks import augment, models, recipes


@dataclass(frozen=True)
class Arithmetic:
    """How a device computes a training step fastest, and why."""

    device: torch.device
    dtype: torch.dtype
    layout: torch.memory_format
    reason: str


def choose_arithmetic(device: torch.device, precision: str) -> Arithmetic:
    """Arithmetic of a device; precision as in a recipe: "auto", "float32" or "bfloat16"."""
    dtype, reason = recipes.choose_precision(device, precision)
    layout = torch.contiguous_format
    # Channels last on a CPU: 37 against 27 patches/s in bfloat16; in float32 16 to 17.
    if dtype == torch.bfloat16 or device.type == "cuda":
        layout = torch.channels_last
    return Arithmetic(device, dtype, layout, reason)


class Learner:
    """A network, already on its device, and one update after the other of its weights.

    settings: a complete recipe. score: (N,) of the training patches. steps: updates of an epoch.
    """

    def __init__(self, net, settings, score, steps, arithmetic):
        scores = net.config["scores"]
        self.net = net
        self.clip = settings["clip"]
        self.arithmetic = arithmetic
        self.forward = net
        if settings["compile"]:
            self.forward = torch.compile(net)
        self.ema = None
        if settings["ema"]:
            self.ema = ModelEmaV3(net, decay=settings["ema"], use_warmup=True)
        self.optimizer, self.schedule = recipes.optimizer(net, settings, steps)
        self.criterion = recipes.criterion(settings, score, scores, arithmetic.device)
        self.mix = augment.mixer(settings["mixup"], scores)

    def update(self, images, score, n_updates):
        """(loss, (B,scores) logits) of one update on uint8 images, the n_updates-th of the run."""
        dtype = self.arithmetic.dtype
        x = models.normalise(images, self.net)
        x = x.contiguous(memory_format=self.arithmetic.layout)
        x, soft_labels = self.mix(x, score)
        device_type = self.arithmetic.device.type
        with torch.autocast(device_type, dtype, enabled=dtype == torch.bfloat16):
            logits = self.forward(x).float()
        loss = self.criterion(logits, soft_labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        # timm's schedules count updates: the rate is set before the step that uses it.
        self.schedule.step_update(n_updates)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.net, step=n_updates)
        return loss.detach(), logits.detach()

    def averaged(self):
        """Net that would be kept: the running mean of the weights where the recipe takes one."""
        if self.ema:
            return self.ema.module
        return self.net

    def finite(self):
        """bool, whether every weight is a finite number."""
        return all(bool(weights.isfinite().all()) for weights in self.net.parameters())

    def rate(self):
        """float, learning rate of the head, the largest of all."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def parts(self):
        """{name: what has a state_dict} of a checkpoint."""
        parts = {"net": self.net, "optimizer": self.optimizer}
        if self.ema:
            parts["ema"] = self.ema.module
        return parts
