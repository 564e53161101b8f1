"""The net: what the library computes on fixed seeds is what it computed when the net was made."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import hashes

KEPT = json.loads(hashes.KEPT.read_text(encoding="utf-8"))
EXACT = ("data/set", "data/mixed", "data/subset", "data/score", "data/groups", "ratings/majority")


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """dict of the sections that take seconds; `make bench` compares all of them, to the bit."""
    scratch = tmp_path_factory.mktemp("hashes")
    arrays = {}
    for section in ("phantoms", "data", "ratings", "statistics"):
        for name, values in hashes.SECTIONS[section](scratch).items():
            arrays[f"{section}/{name}"] = hashes.summary(values)
    return arrays


def test_nothing_is_missing_and_nothing_is_new(computed):
    sections = {name.split("/")[0] for name in computed}
    assert set(computed) == {name for name in KEPT if name.split("/")[0] in sections}


@pytest.mark.parametrize("name", EXACT)
def test_choices_are_equal_to_the_bit(computed, name):
    assert computed[name]["sha"] == KEPT[name]["sha"]


def test_numbers_are_equal_but_for_rounding(computed):
    # other processors round differently, so hashes are compared by the benchmark alone
    for name, summary in computed.items():
        kept = KEPT[name]
        assert summary["shape"] == kept["shape"], name
        if kept.get("finite"):
            assert summary["finite"] == kept["finite"], name
            scale = max(abs(kept["mean"]), kept["spread"], 1e-6)
            for figure in ("mean", "spread"):
                assert abs(summary[figure] - kept[figure]) <= 1e-3 * scale, name
            if name.startswith(("statistics", "ratings")):
                assert np.allclose(summary["some"], kept["some"], rtol=1e-6, atol=1e-9), name


def test_a_changed_array_is_told():
    before = {"a": {"sha": "1"}, "b": {"sha": "2"}}
    assert hashes.different(before, {"a": {"sha": "1"}, "b": {"sha": "3"}}) == ["b"]
    assert hashes.different(before, {"a": {"sha": "1"}}) == ["b"]
