"""Drafts for a manuscript from the runs' records: model cards, CLAIM 2024, TRIPOD+AI; what is not on record is unanswered."""

import html
import re
import tomllib
from collections import Counter
from math import prod
from pathlib import Path

import pandas as pd
from safetensors import safe_open

from her2lib.files import make_folder, read_json, write_text
from her2lib.report.book import number
from her2lib.report.sections import cautions
from her2lib.scores import CUTS
from her2lib.study.results import NETWORKS, display_names, is_null

UNANSWERED = "**unanswered**"
AT_CUTS = [f"{kind} {cut}" for cut in CUTS for kind in ("sensitivity", "specificity")]
TITLES = {"claim": "CLAIM 2024 checklist", "tripod": "TRIPOD+AI checklist"}
WARNING = (
    "Draft filled in from the records of study “{}”. Every answer needs a person's eye. Research use only. "
    "Brackets after a number hold its row in `numbers.csv`."
)
MODELS = {
    "resnet18": "18-layer residual convolutional network",
    "densenet201": "201-layer densely connected convolutional network",
    "vit_b16": "vision transformer, patches of 16 px, 12 layers of 12 heads",
    "vit_tiny": "small vision transformer, patches of 16 px, 12 layers of 3 heads",
    "hybrid": "4 transformer layers of 8 heads and width 512 over the feature map of a ResNet18",
}


def write_drafts(study, records, numbers):
    """list of dict (title, path, answered, of; of is 0 for a card) after writing drafts/*.md into the study's folder."""
    folder = make_folder(study.folder / "drafts")
    for old in folder.glob("*.md"):
        old.unlink()
    answers, found = answered(study, records, numbers), []
    lists = tomllib.loads(
        (Path(__file__).parent / "templates" / "checklists.toml").read_text(encoding="utf-8")
    )
    for name, items in lists.items():
        write_text(folder / f"{name}.md", checklist(TITLES[name], items, answers, study.name))
        known = sum(bool(answers.get(key)) for *_, key in items)
        found.append(
            {
                "title": TITLES[name],
                "path": f"drafts/{name}.md",
                "answered": known,
                "of": len(items),
            }
        )
    for network in dict.fromkeys(run["parameters"]["network"] for run in records.values()):
        write_text(folder / f"model_card_{network}.md", card(study, network, records, numbers))
        found.append(
            {
                "title": f"Model card: {NETWORKS[network]}",
                "path": f"drafts/model_card_{network}.md",
                "answered": 0,
                "of": 0,
            }
        )
    return found


def checklist(title, items, answers, study):
    """str, Markdown: every item with its answer or "unanswered", then the unanswered ones once more as a list of work."""
    rows = [
        f"| {item} | {_cell(words)} | {_cell(answers.get(key) or UNANSWERED)} |"
        for item, words, key in items
    ]
    open_ = [f"- {item}: {words}" for item, words, key in items if not answers.get(key)]
    known = len(items) - len(open_)
    return "\n".join(
        [
            f"# {title}",
            "",
            WARNING.format(study),
            "",
            f"{known} of {len(items)} items answered from the records.",
            "",
            "| item | asks | answer |",
            "|---|---|---|",
            *rows,
            "",
            "## Unanswered",
            "",
            *open_,
            "",
        ]
    )


def card(study, network, records, numbers):
    """str, Markdown: model card of one network over all its runs of the study."""
    own = {name: run for name, run in records.items() if run["parameters"]["network"] == network}
    names = {display_names(study)[name] for name in own}
    rows = numbers[
        numbers["run"].isin(names)
        & numbers["metric"].isin(["accuracy", "kappa quadratic", *AT_CUTS])
    ]
    answers = answered(study, own, numbers[numbers["run"].isin(names)])
    parts = {
        "What it is": [
            answers["model"],
            answers["output"],
            answers["weights"],
            answers["specification"],
        ],
        "What it is for": [
            "Research on scoring HER2 immunohistochemistry patches. Not for diagnosis.",
            f"Intended users: {UNANSWERED}",
        ],
        "Data": [
            answers["source"],
            answers["flow"],
            answers["partition"],
            answers["reference"],
            answers["preprocessing"],
        ],
        "How it was trained": [answers["training"], answers["selection"], answers["software"]],
        "How well it does": [
            f"{row['set']}, {row['run']}: {row['metric']} {_told(row)}"
            for row in rows.to_dict("records")
        ]
        or [UNANSWERED],
        "What went wrong": [answers["failure"] or "Nothing that is on record."],
        "What it cannot tell": cautions(study, own),
        "Ethical questions, fairness, licence, contact": [UNANSWERED],
    }
    runs = [
        f"| {name} | {run['device']}, {run['precision']} | {run['recipe']['epochs']} | {run['seconds']:.0f} | "
        f"{' '.join(run['fingerprints'].values())} | {_cell(run['verdict'] and 'COLLAPSED: ' + run['verdict'])} |"
        for name, run in own.items()
    ]
    text = [f"# Model card: {NETWORKS[network]}", "", WARNING.format(study.name), ""]
    for title, said in parts.items():
        text += [f"## {title}", "", *(f"- {sentence}" for sentence in said if sentence), ""]
    head = [
        "| run | device | epochs | seconds | data, code | verdict |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*text, "## Runs", "", *head, *runs, ""])


def answered(study, records, numbers):
    """dict key -> sentence from what is on record; a key that is missing or "" is unanswered."""
    return {
        **_about_data(study, records, numbers),
        **_about_runs(study, records),
        **_about_results(records, numbers),
    }


def _about_data(study, records, numbers):
    count, notes = (
        read_json(study.folder_of("01_data_exploration") / f"{name}.json")
        for name in ("count", "notes")
    )
    phantom = study.data["source"] == "phantom"
    sets = {
        name: found["n"]
        for run in records.values()
        if run["parameters"]["label_shuffle"] == "none"
        for name, found in run["sets"].items()
    }
    groups = Counter(numbers.loc[numbers["set"] == "test", "sample"]).most_common(1)
    raters = sorted(
        {
            name
            for pair in numbers.loc[numbers["set"] == "rated", "run"]
            for name in pair.split(" ~ ")[:2]
            if " ~ " in pair
        }
    )
    raters = [name for name in raters if name not in {*display_names(study).values(), "consensus"}]
    faulty = (
        "Faulty files are left out and named in the report."
        if study.data["skip_bad"]
        else "A faulty file stops the study."
    )
    sides = _listed(f"{run['parameters']['side_px']} px" for run in records.values())
    return {
        "source": "Synthetic patches made by the kit, whose truth is known."
        if phantom
        else f"The patches at {study.cohort_path.name}.",
        "timing": "Synthetic: no collection." if phantom else "",
        "identity": "Synthetic: no person stands behind a patch." if phantom else "",
        "acquisition": f"Simulated H-DAB stain and scanner: {_pairs(study.phantom)}."
        if phantom
        else "",
        "reference": "The score with which the phantom was made."
        if phantom
        else "The score that came with each patch.",
        "flow": f"In all: {_pairs(count)}. Patches by set: {_pairs(sets)}.",
        "missing": faulty,
        "partition": f"Split {_listed(run['parameters']['split'] for run in records.values())}; validation {study.data['val']:.0%}, test "
        f"{study.data['test']:.0%} where the data bring no sets of their own; seed "
        f"{study.data['split_seed']}. {' '.join(notes)}",
        "disjoint": f"Intervals resample {groups[0][0]}; no slide or patient that is known stands in two sets."
        if groups
        else "",
        "preprocessing": f"Each patch decoded once, resized to {sides}, normalised by the network's own mean and deviation.",
        "subset": f"Whole patches; share of the training patches: {_listed(run['parameters']['n_train'] for run in records.values())}.",
        "raters": f"Read by {', '.join(raters)}." if raters else "",
        "variability": _all_told(numbers[(numbers["run"] == "all raters")], "run"),
        "predictors": "The only predictor is the image; nobody chose or judged features.",
    }


def _about_runs(study, records):
    runs = list(records.values())
    if not runs:
        return {}
    networks = {run["parameters"]["network"]: name for name, run in records.items()}
    recipes = {run["parameters"]["recipe"]: run["recipe"] for run in runs}
    varied = [
        f"{axis} ({', '.join(map(str, values))})"
        for axis in ("recipe", "weights", "side_px", "n_train", "split", "seed", "label_shuffle")
        if len(values := sorted({str(run["parameters"][axis]) for run in runs})) > 1
    ]
    return {
        "technique": f"Deep learning on images: {', '.join(NETWORKS[name] for name in networks)}.",
        "goal": "Development and comparison of networks; exploratory.",
        "question": study.question,
        "model": "; ".join(
            f"{NETWORKS[name]}: {MODELS[name]}, {_size(study, run)}"
            for name, run in networks.items()
        )
        + ". Input: one patch; output: four probabilities.",
        "output": "Four probabilities, for 0, 1+, 2+ and 3+; the score is the most probable one, and no threshold was tuned.",
        "software": ", ".join(f"{name} {version}" for name, version in runs[0]["versions"].items())
        + ".",
        "weights": f"At the start: {_listed(run['parameters']['weights'] for run in runs)} ('none' is random).",
        "training": "; ".join(
            f"{name}: {', '.join(f'{k} {v}' for k, v in recipe.items() if v not in (None, False, 0, 0.0))}"
            for name, recipe in recipes.items()
        )
        + f". On {_listed(run['device'] for run in runs)} ({_listed(run['precision'] for run in runs)}), "
        + f"{sum(run['seconds'] for run in runs):.0f} s in all, {len(runs)} runs.",
        "selection": f"Kept weights: {_listed(recipe['keep'] for recipe in recipes.values())} epoch; kept were the epochs "
        f"{_listed(run['kept_epoch'] for run in runs)}.",
        "ensemble": "None: every run answers by itself; several seeds of one network are averaged as numbers, not as answers.",
        "imbalance": "; ".join(
            f"{name}: balanced drawing {recipe['balanced']}, weighted scores {recipe['score_weights']}"
            for name, recipe in recipes.items()
        )
        + ".",
        "updating": "None: no model was updated after it was evaluated.",
        "robustness": f"Varied were {'; '.join(varied)}." if varied else "",
        "specification": "Weights in runs/<run>/model.safetensors, their configuration in run.json beside it.",
        "protocol": f"{study.file.name} states the study, receipt.json its versions, appendix.html every step as code.",
        "limitations": " ".join(cautions(study, records)),
    }


def _about_results(records, numbers):
    own = numbers[~numbers["run"].map(is_null).astype(bool)]
    test, external = own[own["set"] == "test"], own[own["set"] == "external"]
    main = ["accuracy", "kappa quadratic"]
    single = test[~test["run"].str.contains(" minus ")]
    bad = [f"{name} COLLAPSED: {run['verdict']}" for name, run in records.items() if run["verdict"]]
    wrong = _all_told(single[single["metric"] == "off-by-two rate"], "run")
    belief = list(dict.fromkeys(own.loc[own["id"].str.startswith("08/"), "metric"]))
    results = {
        "metrics": _listed(single["metric"]) if len(single) else "",
        "statistics": "95 % intervals by a bootstrap that draws patients or slides whole; paired tests against the DAB rule, p after Holm.",
        "explanation": f"Maps judged by numbers beside their nulls: {', '.join(belief)}."
        if belief
        else "",
        "internal": _all_told(single[single["metric"].isin(main)], "run"),
        "external": _all_told(external[external["metric"].isin(main)], "run"),
        "diagnostic": _all_told(single[single["metric"].isin(AT_CUTS)], "run"),
        "failure": " ".join(filter(None, [wrong and f"Off by two or more: {wrong}", *bad])),
        "shift": _all_told(
            own[own["set"].isin(["val", "external"]) & own["metric"].str.startswith("recall")],
            "run",
            "set",
        ),
    }
    outside = results["external"] and f"External: {results['external']}"
    return {**results, "performance": " ".join(filter(None, [results["internal"], outside]))}


def _all_told(rows, *by):
    return "; ".join(
        f"{' '.join(row[key] for key in by)}, {row['metric']}: {_told(row)}"
        for row in rows.to_dict("records")
    )


def _told(row):
    """str, a number as the report shows it, with the id of its row."""
    shown = (
        html.unescape(re.sub("<[^>]+>", "", number(row)))
        if pd.notna(row["value"])
        else "not estimable"
    )
    return f"{shown} [{row['id']}]"


def _size(study, run):
    """str, how many numbers the weights of a run are, read from the head of its file."""
    with safe_open(study.folder_of(run) / "model.safetensors", framework="numpy") as weights:
        sizes = [
            prod(weights.get_slice(name).get_shape())
            for name in weights.keys()
            if "running_" not in name
        ]  # noqa: SIM118  no mapping
    return f"{sum(sizes) / 1e6:.1f} million weights"


def _listed(values):
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _pairs(values):
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")
