"""Problems grouped for reading, texts that cannot act on a terminal, fields that are none."""

import pandas as pd

from her2lib.data import judging


def test_problems_print_by_kind_with_count_first_files_and_remedy():
    problems = [("missing", f"{i}.png", ("",)) for i in range(5)]
    problems += [("score", "a.png", ("'4+'", "")), ("score", "b.png", ("'x'", ""))]
    lines = judging.problem_lines(judging.problem_table(problems))
    assert lines[:6] == [
        "error    5 files: there is no such file",
        "         0.png",
        "         1.png",
        "         2.png",
        "         … and 2 more",
        "         Remedy: correct the path in the manifest or bring the file back",
    ]
    assert "         a.png: '4+' is not a HER2 score" in lines
    assert "         b.png: 'x' is not a HER2 score" in lines
    assert len(lines) == 10
    assert judging.problem_lines(judging.problem_table([])) == []


def test_errors_come_before_warnings_and_every_row_has_its_kind():
    table = judging.problem_table([("unscored", "a.png", ()), ("missing", "b.png", ("",))])
    assert list(table.severity) == ["error", "warning"]
    assert list(table.kind) == ["missing", "unscored"]


def test_control_signs_are_written_out():
    assert judging.visible_text("a\x1b[31m") == "a\\x1b[31m"
    assert judging.visible_text("größe") == "größe"


def test_a_reason_of_the_field_gate_leaves_the_row_out():
    problems = []
    rows = pd.DataFrame({"file": ["a.png", "b.png"], "slide": ["", ""]})
    mask = judging.judge_fields(rows, problems, ["", "blank"])
    assert list(mask) == [False, True]
    assert problems == [("field", "b.png", ("blank",))]
