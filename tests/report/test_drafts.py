"""Drafts: items once, numbers with their ids, nothing answered that is not on record."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from her2lib import files
from her2lib.report import book, drafts, sections
from her2lib.stats.intervals import Estimate
from her2lib.study import config, results

LISTS = tomllib.loads(
    (Path(drafts.__file__).parent / "templates" / "checklists.toml").read_text(encoding="utf-8")
)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A study with one finished run of known numbers, and numbers of its test set."""
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    loaded = config.load_study("smoke")
    run = loaded.run()
    folder = files.make_folder(loaded.folder_of(run["run"]))
    save_file(
        {
            "a": np.zeros((1000, 1500), np.float32),
            "bn.running_mean": np.zeros(9_000_000, np.float32),
        },
        folder / "model.safetensors",
    )
    files.write_json(
        folder / "run.json",
        {
            "complete": True,
            "verdict": "answers 2+ | only",
            "fingerprints": {"data": "d4ta", "code": "c0de"},
            "parameters": run,
            "fluctuation": 0.5,
            "sets": {"test": {"n": 51}},
            "device": "cuda:0",
            "precision": "bfloat16",
            "seconds": 61.4,
            "kept_epoch": 3,
            "versions": {"torch": "9.9.9"},
            "recipe": {
                "epochs": 5,
                "keep": "last",
                "balanced": False,
                "score_weights": False,
                "lr": 0.001,
            },
        },
    )
    kept = book.Book(loaded, "06_compare_models")
    found = {
        metric: Estimate(
            0.5, 0.4, 0.6, 51, "patches of 9 patients", as_percent=metric == "accuracy"
        )
        for metric in ("accuracy", "kappa quadratic", "sensitivity 0|1+")
    }
    for set_ in ("test", "external"):
        kept.add(found, subset=set_, run=results.display_names(loaded)[run["run"]])
    return loaded


def text(loaded, name):
    drafts.write_drafts(loaded, results.run_records(loaded), sections.all_numbers(loaded))
    return (loaded.folder / "drafts" / f"{name}.md").read_text(encoding="utf-8")


def test_the_checklists_have_every_item_once():
    claim, tripod = ([item for item, *_ in LISTS[name]] for name in ("claim", "tripod"))
    assert claim == [str(number) for number in range(1, 45)]
    assert len(set(tripod)) == len(tripod) == 52
    assert {int(re.match(r"\d+", item)[0]) for item in tripod} == set(range(1, 28))


def test_every_key_of_the_checklists_has_a_sentence_and_every_sentence_an_item(made):
    known = set(
        drafts.answers_on_record(made, results.run_records(made), sections.all_numbers(made))
    )
    asked = {key for items in LISTS.values() for *_, key in items if key}
    assert asked <= known
    assert known <= asked


@pytest.mark.parametrize("name", ["claim", "tripod"])
def test_each_item_is_answered_or_listed_as_unanswered(made, name):
    said = text(made, name)
    rows = re.findall(r"^\| (\d+[a-g]?) \| .* \| (.*) \|$", said, re.M)
    assert [item for item, _ in rows] == [item for item, *_ in LISTS[name]]
    missing = [item for item, answer in rows if answer == drafts.UNANSWERED]
    assert re.findall(r"^- (\S+):", said.split("## Unanswered")[1], re.M) == missing
    assert f"{len(rows) - len(missing)} of {len(rows)} items answered" in said
    for key in (
        ("44",) if name == "claim" else ("17", "18a", "18b", "19")
    ):  # nobody but people can know these
        assert key in missing


def test_numbers_carry_their_ids_and_records_their_facts(made):
    said = text(made, "claim")
    name = results.display_names(made)[made.run()["run"]]
    assert (
        f"{name}, accuracy: 50.0 % (40.0 to 60.0; n = 51 patches of 9 patients) "
        f"[06/test/{name}/accuracy]" in said
    )
    assert f"[06/external/{name}/accuracy]" in said
    for fact in (
        "torch 9.9.9",
        "cuda:0 (bfloat16), 61 s in all",
        "lr 0.001",
        "1.5 million weights",
        r"answers 2+ \| only",
        "test 51",
    ):
        assert fact in said


def test_the_model_card_names_runs_limits_and_what_went_wrong(made):
    said = text(made, f"model_card_{made.run()['network']}")
    for fact in (
        "COLLAPSED: answers 2+",
        "d4ta c0de",
        "cuda:0, bfloat16 | 5 | 61",
        "Not for diagnosis",
        "say nothing about real tissue",
        drafts.UNANSWERED,
    ):
        assert fact in said


def test_drafts_of_another_day_are_taken_away(made):
    files.write_text(made.folder / "drafts" / "model_card_gone.md", "old")
    text(made, "claim")
    assert not (made.folder / "drafts" / "model_card_gone.md").exists()


def test_without_any_number_nothing_is_answered_that_needs_one(made):
    answers = drafts.answers_on_record(
        made, results.run_records(made), sections.all_numbers(made).iloc[:0]
    )
    for key in (
        "performance",
        "internal",
        "external",
        "diagnostic",
        "metrics",
        "explanation",
        "variability",
        "raters",
        "disjoint",
    ):
        assert not answers[key]
