"""Networks: four that score patches, under one contract; their recipes, training, finished runs.

models       the networks, and what they hand over on the way to their logits
weights      pretrained weights from the hub or a file
recipes      every knob of a training in one dictionary
augment      order of an epoch, batches on the device, flips, stain jitter, mixup
learner      a network on its device, and one update of its weights
train        the training loop, and predictions
checkpoint   a training on disk: resumed while it runs, read back when it is finished
collapse     whether a run has learnt anything
encoders     frozen features of other encoders, and heads that learn on them
"""

import lazy_loader

__all__ = ["Net", "Tap", "create", "fit", "load_run", "predict", "recipe", "save_run"]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checkpoint": ["load_run", "save_run"],
        "models": ["Net", "Tap", "create"],
        "recipes": ["recipe"],
        "train": ["fit", "predict"],
    },
)
