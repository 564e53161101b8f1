"""Numbers of the command line: read as they were typed, or the range is said."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from her2lib.cli import options
from her2lib.intake.choices import LAYOUTS, SCORE_FROM, SET_FROM


def read(between, text):
    return between(float, (SimpleNamespace(value=text),))


def test_a_number_within_its_ends_is_read_and_both_ends_are_within():
    between = options.Between(0, 1)
    for text, value in {"0": 0, "1": 1, "0.25": 0.25, " 1e-3 ": 0.001}.items():
        assert read(between, text) == value
    assert isinstance(read(options.Between(1, 9, whole=True), "3"), int)


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "inf", "-inf", "1e99", "", "half", "0,5"])
def test_anything_else_says_what_the_option_takes(text):
    with pytest.raises(ValueError, match="takes a number from 0 to 1, not"):
        read(options.Between(0, 1), text)


@pytest.mark.parametrize("text", ["1.5", "2.0", "1e3", "0", "10", "nan", "9" * 5000])
def test_a_whole_number_is_never_rounded_to(text):
    with pytest.raises(ValueError, match="takes a whole number from 1 to 9, not"):
        read(options.Between(1, 9, whole=True), text)


def test_problems_are_printed_one_a_line_and_decide_the_exit_status(capsys):
    assert options.print_problems([]) == 0
    assert options.print_problems(["first.", "second."]) == 1
    assert capsys.readouterr().err == "her2: first.\nher2: second.\n"


def test_every_number_of_a_verb_has_both_ends():
    for name in ("Count", "CountOrNone", "Workers", "Fraction", "Seed", "SidePx", "Mpp"):
        (parameter,) = getattr(options, name).__metadata__
        between = parameter.converter
        assert math.isfinite(between.low), name
        assert math.isfinite(between.high), name


def test_what_is_stated_about_data_becomes_choices_with_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert options.FIND_OUT_FLAGS.choices().stated() == {}
    flags = options.DataFlags(
        score_from="folder2", allow=(Path("store"),), score_word=("Negative=0",)
    )
    choices = flags.choices(mpp=0.25)
    assert choices.allow == (str(tmp_path / "store"),)
    assert choices.score_words == {"negative": "0"}
    assert (choices.score_from, choices.mpp, choices.any_field) == ("folder2", 0.25, False)


def test_the_flags_offer_what_the_library_knows():
    for name, known in (("layout", LAYOUTS), ("score_from", SCORE_FROM), ("set_from", SET_FROM)):
        annotation = str(options.DataFlags.__annotations__[name])
        assert all(repr(value) in annotation for value in known), name
