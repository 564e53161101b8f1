"""What the library computes on fixed seeds, as hashes: a change of code that changes no number.

    python benchmarks/hashes.py [SECTION …] [--write FILE] [--against FILE]   (about 2 minutes)

Compares with benchmarks/hashes.json and prints every array that differs; --write keeps today's.
Hashes are equal on one machine and one lock; elsewhere processors round differently, and only the
summary beside each hash can be compared: tests/test_hashes.py does that.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from her2lib import stain
from her2lib.data import images, patches, slide_groups, splits, store
from her2lib.maps import attribution, faithfulness, focus, imputation, interventions
from her2lib.networks import models, recipes, train
from her2lib.phantoms import dataset
from her2lib.readers import label_doubt, votes
from her2lib.report import published
from her2lib.stats import agreement, calibration, compare, intervals

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "hashes.json"
SIDE_PX = 96
COHORT = {"patches": 40, "slides": 10, "side_px": SIDE_PX, "mpp": 1.0, "seed": 11, "raters": 2}


def summary(values):
    """dict of one array: sha256 of its bytes, and figures that other machines can compare."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, (list, tuple)):
        values = np.array([str(value) for value in values], object)
    array = np.ascontiguousarray(values)
    if array.dtype == object or array.dtype.kind in "US":
        text = json.dumps([str(value) for value in array.ravel()])
        return {"sha": hashlib.sha256(text.encode()).hexdigest()[:16], "shape": list(array.shape)}
    sha = hashlib.sha256(str((array.dtype.str, array.shape)).encode() + array.tobytes()).hexdigest()
    flat = array.ravel().astype(float)
    flat = flat[np.isfinite(flat)]
    some = flat[np.linspace(0, len(flat) - 1, 5).astype(int)] if len(flat) else flat
    return {
        "sha": sha[:16],
        "shape": list(array.shape),
        "finite": len(flat),
        "mean": float(flat.mean()) if len(flat) else None,
        "spread": float(flat.std()) if len(flat) else None,
        "some": [float(value) for value in some],
    }


def of_table(table):
    """dict column -> array of the numbers and words of a DataFrame, in the order of its columns."""
    return {str(position): table[column].to_numpy() for position, column in enumerate(table)}


def phantoms():
    """Arrays of a phantom of every score: pixels, masks, cells; of one its H&E partner too."""
    found = {}
    for score in range(4):
        made = dataset.make_patch(20 + score, side_px=SIDE_PX, mpp=1.0, score=score, he=score == 2)
        for name, value in vars(made).items():
            if isinstance(value, np.ndarray):
                found[f"{score}/{name}"] = value
            elif isinstance(value, dict):
                found |= {
                    f"{score}/{name}/{key}": one
                    for key, one in value.items()
                    if isinstance(one, np.ndarray)
                }
            elif isinstance(value, pd.DataFrame):
                found |= {f"{score}/{name}/{key}": one for key, one in of_table(value).items()}
    return found


def cohort(scratch):
    """(table, Patches) of a small folder of phantoms, written and decoded in scratch."""
    folder = dataset.write_phantoms(scratch / "cohort", progress=False, workers=1, **COHORT)
    table, _ = patches.read_table(folder)
    return table, store.open_store(table, side_px=64, folder=scratch / "stores", progress=False)


def data(scratch):
    """Arrays of reading, splitting and storing a cohort."""
    table, small = cohort(scratch)
    drawn, notes = splits.split_table(table, seed=5)
    free = table.assign(set="", slide=table.slide.where(table.index % 2 == 0, ""), patient="")
    mixed, more = splits.split_table(free, seed=6)
    part = splits.take_fraction(drawn, fraction=0.5, seed=1)
    digest = images.probe_files(table.path).digest.to_numpy()
    columns = [column for column in table if column not in ("path", "he", "digest", "mpp_from")]
    return {
        "store": small.images,
        "mpp": small.mpp,
        "score": small.score,
        "set": drawn.set.to_numpy(object),
        "mixed": mixed.set.to_numpy(object),
        "notes": np.array([*notes, *more], object),
        "subset": part.index.to_numpy(),
        "groups": splits.split_groups(free),
        "digest": digest.astype(object),
        "problems": patches.check_patches(scratch / "cohort", progress=False)[0].severity.to_numpy(
            object
        ),
        **{f"table/{column}": table[column].to_numpy() for column in columns},
    }


def stains(scratch):
    """Arrays of stain separation, masks, measures and the rule."""
    small = cohort(scratch)[1].images[:12]
    values = stain.rule_value(small, mpp=1.0)
    return {
        "density": stain.optical_density(small),
        "white": stain.white_point(small),
        "balanced": stain.white_balance(small),
        "unmixed": stain.unmix(small, white="glass"),
        "dab": stain.dab(small),
        "rule": values,
        "score": stain.rule_score(values),
        "jitter": stain.jitter(small, generator=torch.Generator().manual_seed(3)),
        **{f"masks/{name}": mask for name, mask in stain.masks(small, mpp=1.0).items()},
        **{f"measures/{name}": mask for name, mask in stain.measures(small, mpp=1.0).items()},
    }


def review_(scratch):
    """Arrays of recovered slide groups and of label doubt."""
    small = cohort(scratch)[1]
    score, slide = np.asarray(small.score), np.asarray(small.slide)
    features = label_doubt.learner_features(small.images, mpp=1.0)
    rule = stain.rule_value(small.images, mpp=1.0).numpy()
    learner = label_doubt.out_of_fold_probabilities(features, score, groups=slide)
    excess = label_doubt.excess_dab(small.images, mpp=1.0)
    doubt = label_doubt.rank_doubts(
        score,
        patch=small.name,
        learner=learner,
        rule=rule,
        features=features,
        groups=slide,
        excess=excess,
    )
    groups = slide_groups.recover_groups(small.images)
    return {
        "features": features,
        "excess": excess,
        "learner": learner,
        "neighbours": label_doubt.neighbour_votes(features, score, groups=slide),
        "groups": groups,
        **{
            f"doubt/{column}": doubt[column].to_numpy()
            for column in ("patch", "score", "suggested", "doubt", "kind")
        },
    }


def ratings(scratch):
    """Arrays of consensus and disagreement."""
    rng = np.random.default_rng(4)
    read = np.clip(rng.integers(0, 4, (60, 1)) + rng.integers(-1, 2, (60, 3)), 0, 3)
    read[rng.random((60, 3)) < 0.1] = -1
    return {
        "majority": votes.consensus(read),
        "median": votes.consensus(read, how="median"),
        "left out": votes.leave_one_out(read),
    }


def statistics(scratch):
    """Arrays of every metric with its interval, kappas, comparisons, calibration."""
    rng = np.random.default_rng(8)
    n, q = 160, 4
    truth = rng.integers(0, q, n)
    slides = pd.Series(rng.integers(0, 24, n), name="slides")
    runs = []
    for _ in range(2):
        logits = rng.normal(size=(n, q)) + 1.5 * np.eye(q)[truth]
        runs.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    a, b = (run.argmax(1) for run in runs)
    read = np.stack([truth, a, b, np.where(rng.random(n) < 0.2, -1, truth)], 1)
    names = ["consensus", "anna", "ben", "net"]
    options = {"groups": slides, "resamples": 300}
    found = {
        "confusion": agreement.confusion_counts(truth, a),
        "kappa matrix": np.stack(agreement.kappa_matrix(read, weights="quadratic", **options)),
        "temperature": np.array([calibration.fit_temperature(truth, runs[0])]),
        "tempered": calibration.apply_temperature(runs[0], 1.7),
        "prior": calibration.prior_corrected(runs[0], trained=np.array([0.4, 0.3, 0.2, 0.1])),
        "spearman": np.array([agreement.spearman(truth, a)]),
        "groups": intervals.resampling_groups(["a", "b"], ["s", "t"], ["1", "2"])[0].to_numpy(
            object
        ),
    }
    tables = {
        "metrics": agreement.metrics(truth, runs[0], **options),
        "metrics of seeds": agreement.metrics(truth, runs, **options),
        "kappas": agreement.kappa_table(read, names, weights="linear", **options),
        "human": agreement.human_range(read[:, 1:], names[1:], networks=["net"], **options),
        "compare": compare.compare(truth, a, b, **options),
        "compare all": compare.compare_all(truth, {"a": a, "b": b, "c": truth}, **options),
        "shift": compare.domain_shift(
            {"one": (truth, a, slides), "two": (truth, b, slides)}, resamples=300
        ),
        "reliability": calibration.reliability_table(truth, runs[0], groups=slides, resamples=100),
        "risk": calibration.risk_coverage_table(truth, runs[0], groups=slides, resamples=100),
    }
    for name, table in tables.items():
        numbers = table.select_dtypes("number")
        found |= {f"{name}/{key}": value for key, value in of_table(numbers).items()}
    return found


def training(scratch):
    """Arrays of two epochs of every network and of its probabilities."""
    small = cohort(scratch)[1]
    found = {}
    for network in ("resnet18", "densenet201", "vit_tiny", "hybrid"):
        net = models.create(network, side_px=64, weights="none", seed=2)
        recipe = recipes.recipe("tuned", network=network, epochs=2, batch=8)
        fit = train.fit(
            net,
            small.take(slice(0, 28)),
            small.take(slice(28, None)),
            seed=2,
            progress=False,
            **recipe,
        )
        history = fit.history[
            [column for column in fit.history if "seconds" not in column and column != "verdict"]
        ]
        found[f"{network}/probabilities"] = train.predict(fit.net, small.images)
        found |= {
            f"{network}/{column}": history[column].to_numpy()
            for column in history.select_dtypes("number")
        }
    shuffled = train.shuffle_labels(small, seed=3)
    return found | {"shuffled": shuffled.score}


def maps(scratch):
    """Arrays of every map method of a CNN and two transformers, their focus and faithfulness."""
    small = cohort(scratch)[1].images[:4]
    found = {}
    for network in ("resnet18", "vit_tiny", "hybrid"):
        net = models.create(network, side_px=64, weights="none", seed=2)
        x = models.normalise(small, net)
        for name, method in attribution.methods_for(net).items():
            found[f"{network}/{name}"] = method.function(net, x, 2)
        grad = attribution.grad_cam(net, x, 1)
        found[f"{network}/expected"] = attribution.grad_cam(net, x, "expected")
        found[f"{network}/deletion"] = faithfulness.deletion(net, x, maps=grad, score=1, steps=4)
        found[f"{network}/insertion"] = faithfulness.insertion(net, x, maps=grad, score=1, steps=4)
        tables = {
            "road": faithfulness.road(net, x, maps=grad, score=1, shares=(0.3,)),
            "likeness": faithfulness.similarity_under_change(net, small, score=1),
            "scatter": focus.scatter(grad),
            "focus": focus.focus(grad, stain.masks(small, mpp=1.5), mpp=1.5),
            "bands": focus.depth_bands(grad, stain.masks(small, mpp=1.5)["tumour"], mpp=1.5),
        }
        if net.layers:
            tables["distance"] = focus.attention_distances(net, x, mpp=1.5)
            tables["relevance by head"] = pd.DataFrame(
                attribution.attention(net, x, head=0).flatten(1).numpy()
            )
        for name, table in tables.items():
            found |= {
                f"{network}/{name}/{k}": v
                for k, v in of_table(table.select_dtypes("number")).items()
            }
    found["impute"] = imputation.impute(
        small.float(), torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(1)) < 0.4
    )
    found |= {
        f"ablation/{name}": value for name, value in interventions.ablations(small, mpp=1.5).items()
    }
    return found


def audits(scratch):
    """Arrays of the audit's findings on the published figures."""
    findings = published.audit_file(ROOT / "studies" / "published.toml")
    return {
        "verdict": findings.verdict.to_numpy(object),
        "sentence": findings.sentence.to_numpy(object),
    }


SECTIONS = {
    "phantoms": lambda scratch: phantoms(),
    "data": data,
    "stains": stains,
    "review": review_,
    "ratings": ratings,
    "statistics": statistics,
    "training": training,
    "maps": maps,
    "audits": audits,
}


def collect(sections):
    """dict "section/array" -> summary of everything that the sections compute, on one thread."""
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for section in sections:
            arrays = SECTIONS[section](Path(scratch))
            found |= {f"{section}/{name}": summary(values) for name, values in arrays.items()}
    return found


def different(before, after):
    """list of str, the arrays whose hash is not what it was, or that only one side has."""
    return [
        name
        for name in sorted(before.keys() | after.keys())
        if before.get(name, {}).get("sha") != after.get(name, {}).get("sha")
    ]


def main():
    """int, 1 when an array differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", default=list(SECTIONS))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--against", type=Path, default=KEPT)
    options = parser.parse_args()
    after = collect(options.sections)
    if options.write:
        options.write.write_text(json.dumps(after, indent=0) + "\n")
        print(f"{len(after)} arrays written to {options.write}")
        return 0
    before = json.loads(options.against.read_text())
    before = {name: row for name, row in before.items() if name.split("/")[0] in options.sections}
    wrong = different(before, after)
    print(
        *[f"differs: {name}" for name in wrong],
        f"{len(after)} arrays, {len(wrong)} differ",
        sep="\n",
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
