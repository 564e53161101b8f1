"""HER2 study kit: score HER2 immunohistochemistry patches, and see where networks look.

    import her2lib as her2

    cohort = her2.read_patches("my_patches/", side_px=224)
    train, val, test = cohort.split(seed=0)
    net = her2.create("resnet18", side_px=224, weights="imagenet")
    fit = her2.train(net, train, val, recipe="tuned")
    probabilities = her2.predict(fit.net, test)
    print(her2.quadratic_kappa(test.score, probabilities.argmax(1), groups=test.patient))

A map of the house; each room says in its own docstring what it is for:

    data       folders, tables and slides -> checked, split, decoded patches
    phantoms   synthetic patches whose truth is known to the pixel
    networks   the networks under one contract, recipes, training, finished runs
    stats      agreement with intervals by patient or slide, calibration
    maps       where a network looks, and whether its maps deserve belief
    readers    reading sheets for people, consensus, labels worth a second look
    study      one question: its data, its runs, what they left behind
    runner     a study's notebooks executed, on one machine or a cluster
    report     what notebooks hand over, and the report made of it
    pages      what each notebook shows, one file a notebook
    explorer   any patch through any network, by hand
    scoring    new patches and slides under a finished run

stain (H-DAB optical density), plots, scores and files belong to all rooms. Names are loaded when
first used, so that `import her2lib` costs nothing. Research use only.
"""

import lazy_loader

__all__ = [
    "Estimate",
    "Patches",
    "attention",
    "bootstrap",
    "check_patches",
    "create",
    "grad_cam",
    "load_run",
    "plots",
    "predict",
    "quadratic_kappa",
    "read_patches",
    "rule_score",
    "train",
    "write_phantoms",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=["plots"],
    submod_attrs={
        "data.patches": ["Patches", "check_patches"],
        "data.reading": ["read_patches"],
        "maps.attribution": ["attention", "grad_cam"],
        "networks.checkpoint": ["load_run"],
        "networks.models": ["create"],
        "networks.train": ["predict", "train"],
        "phantoms.dataset": ["write_phantoms"],
        "stain": ["rule_score"],
        "stats.intervals": ["Estimate", "bootstrap"],
        "stats.one_kappa": ["quadratic_kappa"],
    },
)
