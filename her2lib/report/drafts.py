"""Drafts for a manuscript from the runs' records: model cards, CLAIM 2024, TRIPOD+AI.

The sentences stand in templates/; this module gathers what is on record. What is not is unanswered.
"""

import html
import re
import tomllib
from math import prod
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from safetensors import safe_open

from her2lib.files import make_folder, read_json, write_text
from her2lib.report.book import number
from her2lib.report.sections import cautions
from her2lib.scores import CUTS
from her2lib.study.keys import NETWORKS
from her2lib.study.results import display_names, is_null

UNANSWERED = "**unanswered**"
AT_CUTS = [f"sensitivity {cut}" for cut in CUTS] + [f"specificity {cut}" for cut in CUTS]
MAIN = ["accuracy", "kappa quadratic"]
AXES = ("recipe", "weights", "side_px", "n_train", "split", "seed", "label_shuffle")
MAP_NOTEBOOKS = ("08/", "11/")  # whose numbers judge maps
TITLES = {"claim": "CLAIM 2024 checklist", "tripod": "TRIPOD+AI checklist"}
WARNING = (
    "Draft filled in from the records of study “{}”. Every answer needs a person's eye. "
    "Research use only. Brackets after a number hold its row in `numbers.csv`."
)
HERE = Path(__file__).parent / "templates"
TEMPLATES = Environment(loader=FileSystemLoader(HERE), keep_trailing_newline=True)  # Markdown


def write_drafts(study, records, numbers):
    """list of dict (title, path, answered, of) after writing drafts/*.md into the study's folder.

    answered and of count the items of a checklist; of is 0 for a model card.
    """
    folder = make_folder(study.folder / "drafts")
    for old in folder.glob("*.md"):
        old.unlink()
    listing = []
    answers = answers_on_record(study, records, numbers)
    checklists = tomllib.loads((HERE / "checklists.toml").read_text(encoding="utf-8"))
    for name, items in checklists.items():
        title = TITLES[name]
        write_text(folder / f"{name}.md", checklist(title, items, answers, study.name))
        answered = sum(bool(answers.get(key)) for *_, key in items)
        path = f"drafts/{name}.md"
        listing.append({"title": title, "path": path, "answered": answered, "of": len(items)})
    for network in dict.fromkeys(record["parameters"]["network"] for record in records.values()):
        file = f"model_card_{network}.md"
        write_text(folder / file, model_card(study, network, records, numbers))
        title = f"Model card: {NETWORKS[network].title}"
        listing.append({"title": title, "path": f"drafts/{file}", "answered": 0, "of": 0})
    return listing


def checklist(title, items, answers, study_name):
    """str, Markdown: every item with its answer or "unanswered", then what is left to answer."""
    return TEMPLATES.get_template("checklist.md.j2").render(
        title=title,
        items=items,
        answers=answers,
        unanswered=[item for item in items if not answers.get(item[2])],
        nothing=UNANSWERED,
        warning=WARNING.format(study_name),
    )


def model_card(study, network, records, numbers):
    """str, Markdown: model card of one network over all its runs of the study."""
    runs = {
        run: record for run, record in records.items() if record["parameters"]["network"] == network
    }
    names = {display_names(study)[run] for run in runs}
    numbers = numbers[numbers["run"].isin(names)]
    told = numbers[numbers["metric"].isin([*MAIN, *AT_CUTS])]
    answers = answers_on_record(study, runs, numbers)
    chapters = {
        "What it is": _of(answers, "model", "output", "weights", "specification"),
        "What it is for": [
            "Research on scoring HER2 immunohistochemistry patches. Not for diagnosis.",
            f"Intended users: {UNANSWERED}",
        ],
        "Data": _of(answers, "source", "flow", "partition", "reference", "preprocessing"),
        "How it was trained": _of(answers, "training", "selection", "software"),
        "How well it does": _result_sentences(told) or [UNANSWERED],
        "What went wrong": [answers.get("failure") or "Nothing that is on record."],
        "What it cannot tell": cautions(study, runs),
        "Ethical questions, fairness, licence, contact": [UNANSWERED],
    }
    return TEMPLATES.get_template("model_card.md.j2").render(
        name=NETWORKS[network].title,
        chapters=chapters,
        records=runs,
        warning=WARNING.format(study.name),
    )


def answers_on_record(study, records, numbers):
    """dict key of checklists.toml -> sentence; a key that is missing or "" is unanswered."""
    facts = {
        **_data_facts(study, records, numbers),
        **_run_facts(study, records),
        **_result_facts(records, numbers),
    }
    text = TEMPLATES.get_template("answers.j2").render(facts)
    _, *parts = re.split(r"^\[\[(\w+)\]\]$", text, flags=re.M)
    return {
        key: " ".join(answer.split()) for key, answer in zip(parts[::2], parts[1::2], strict=True)
    }


# --- what is on record --------------------------------------------------------------------------


def _data_facts(study, records, numbers):
    folder = study.folder_of("01_data_exploration")
    sets = {}
    for record in records.values():
        if record["parameters"]["label_shuffle"] == "none":
            sets |= {subset: measures["n"] for subset, measures in record["sets"].items()}
    samples = numbers.loc[numbers["set"] == "test", "sample"]
    return {
        "phantom": study.phantom if study.data["source"] == "phantom" else {},
        "folder": study.cohort_path.name,
        "count": read_json(folder / "count.json"),
        "notes": read_json(folder / "notes.json"),
        "sets": sets,
        "data": study.data,
        "sample": samples.value_counts().index[0] if len(samples) else "",
        "sides": _every(f"{record['parameters']['side_px']} px" for record in records.values()),
        "raters": _raters(study, numbers),
        "numbers_of_raters": "; ".join(
            _result_sentences(numbers[numbers["run"] == "all raters"], "run")
        ),
    }


def _raters(study, numbers):
    """list of str, the people whose agreement in pairs is among the numbers."""
    networks = {*display_names(study).values(), "consensus"}
    people = set()
    for pair in numbers.loc[numbers["set"] == "rated", "run"]:
        if " ~ " in pair:
            people.update(pair.split(" ~ ")[:2])
    return sorted(people - networks)


def _run_facts(study, records):
    first_run = {}  # the last run of each network tells its size
    recipes = {}
    for run, record in records.items():
        first_run[record["parameters"]["network"]] = run
        recipes[record["parameters"]["recipe"]] = record["recipe"]
    networks = []
    for network, run in first_run.items():
        size = _size(study, run)
        known = NETWORKS[network]
        networks.append({"name": known.title, "design": known.design, "size": size})
    runs = list(records.values())

    def axis(name):
        return _every(record["parameters"][name] for record in runs)

    varied = []
    for name in AXES:
        values = sorted({str(record["parameters"][name]) for record in runs})
        if len(values) > 1:
            varied.append(f"{name} ({', '.join(values)})")
    return {
        "runs": runs,
        "networks": networks,
        "recipes": recipes,
        "axis": axis,
        "varied": varied,
        "seconds": f"{sum(record['seconds'] for record in runs):.0f}",
        "question": study.question,
        "study_file": study.file.name,
        "cautions": cautions(study, records),
        "percent": "{:.0%}".format,
    }


def _result_facts(records, numbers):
    of_networks = numbers[~numbers["run"].map(is_null).astype(bool)]
    test = of_networks[of_networks["set"] == "test"]
    single = test[~test["run"].str.contains(" minus ")]
    outside = of_networks[of_networks["set"] == "external"]
    far = "; ".join(_result_sentences(single[single["metric"] == "off-by-two rate"], "run"))
    failures = [f"Off by two or more: {far}"] if far else []
    for run, record in records.items():
        if record["verdict"]:
            failures.append(f"{run} COLLAPSED: {record['verdict']}")
    maps = of_networks["id"].str.startswith(MAP_NOTEBOOKS)
    moved = of_networks["set"].isin(["val", "external"])
    moved &= of_networks["metric"].str.startswith("recall")
    return {
        "metrics": list(dict.fromkeys(single["metric"])),
        "map_metrics": list(dict.fromkeys(of_networks.loc[maps, "metric"])),
        "internal": "; ".join(_result_sentences(single[single["metric"].isin(MAIN)], "run")),
        "external": "; ".join(_result_sentences(outside[outside["metric"].isin(MAIN)], "run")),
        "diagnostic": "; ".join(_result_sentences(single[single["metric"].isin(AT_CUTS)], "run")),
        "failure": " ".join(failures),
        "shift": "; ".join(_result_sentences(of_networks[moved], "run", "set")),
    }


def _size(study, run):
    """str, how many numbers the weights of a run are, read from the head of its file."""
    total = 0
    with safe_open(study.folder_of(run) / "model.safetensors", framework="numpy") as weights:
        names = weights.keys()
        for name in names:
            if "running_" not in name:  # statistics of batch normalisation are no weights
                total += prod(weights.get_slice(name).get_shape())
    return f"{total / 1e6:.1f} million weights"


# --- words --------------------------------------------------------------------------------------


def _result_sentences(rows, *columns):
    """list of str, each number after what these columns say, or after set and run, with its id."""
    sentences = []
    for row in rows.to_dict("records"):
        value = "not estimable"
        if pd.notna(row["value"]):
            value = html.unescape(re.sub("<[^>]+>", "", number(row)))
        value = f"{value} [{row['id']}]"
        if columns:
            what = " ".join(row[column] for column in columns)
            sentences.append(f"{what}, {row['metric']}: {value}")
        else:
            sentences.append(f"{row['set']}, {row['run']}: {row['metric']} {value}")
    return sentences


def _of(answers, *keys):
    return [answers.get(key, "") for key in keys]


def _every(values, attribute=None):
    """str, every different value once, in order; of dicts the value under a key."""
    if attribute is not None:
        values = [value[attribute] for value in values]
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _pairs(values):
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _settings(recipe):
    """str, what of a recipe is switched on."""
    return ", ".join(f"{key} {value}" for key, value in recipe.items() if value)


def _cell(text):
    """str that stands in one cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


TEMPLATES.filters.update(cell=_cell, every=_every, pairs=_pairs, settings=_settings)
