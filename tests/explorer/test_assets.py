"""The JavaScript and the style: every file is in the joined text once, and legible."""

import re

import pytest

from her2lib.explorer import assets

WRITTEN = sorted([*assets.FOLDER.glob("*.js"), *assets.FOLDER.glob("*.css")])


def test_every_file_is_joined_once():
    assert len(set(assets.SCRIPTS)) == len(assets.SCRIPTS)
    assert {file.name for file in WRITTEN} == {*assets.SCRIPTS, *assets.STYLES}


def test_the_joined_script_is_one_module_whose_names_do_not_clash():
    script = assets.read_script()
    assert script.count("export default") == 1
    names = re.findall(r"^(?:class|function|async function|const|let) (\w+)", script, re.M)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.name)
def test_a_file_is_at_most_500_lines_of_100_columns(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 500
    assert max(map(len, lines)) <= 100
