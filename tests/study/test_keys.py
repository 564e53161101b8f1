"""What a study file may hold: every axis a list with a value, old words read as today's."""

import pytest

from her2lib.study import keys


def test_sections_come_back_filled_and_axes_as_lists():
    tables, sections = keys.checked_tables(
        {"axes": {"seed": 1}, "extra_axes": [{"network": "hybrid"}], "data": {"val": 1 / 4}}, "x"
    )
    assert sections["axes"]["seed"] == [1]
    assert sections["axes"]["network"] == keys.AXES["network"]
    assert tables["extra_axes"] == [{"network": ["hybrid"]}]
    assert sections["data"]["val"] == 0.25
    assert sections["data"]["source"] == "phantom"
    assert set(sections) == set(keys.SECTIONS)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"axes": {"seed": []}}, "seed is an empty list"),
        ({"axes": {"seed": True}}, "whole numbers, not True"),
        ({"axes": {"network": [["resnet18"]]}}, "unknown network"),
        ({"data": {"val": "0.2"}}, "val in [data] is a number"),
        ({"data": []}, "must be a table"),
        ({"extra_axes": [3]}, "[[extra_axes]]"),
    ],
)
def test_a_wrong_value_is_a_sentence_with_the_file(tables, says):
    with pytest.raises(keys.StudyError) as refusal:
        keys.checked_tables(tables, "mine.toml")
    assert says in str(refusal.value)
    assert str(refusal.value).startswith("mine.toml: ")


def test_every_known_network_can_be_an_axis():
    for network in keys.NETWORKS:
        keys.checked_tables({"axes": {"network": network}}, "x")
