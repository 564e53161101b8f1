"""Tables for a manuscript: LaTeX that compiles, columns that wrap."""

import shutil
import subprocess

import pandas as pd
import pytest

from her2lib.report import tables


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles(tmp_path):
    table = pd.DataFrame({"a & b": ["50 %", "_x^2 # $1"], "long": ["word " * 60, "{~}"]})
    body = tables.latex(table, "100 % of {all}", label="t")
    (tmp_path / "t.tex").write_text(
        r"\documentclass{article}\usepackage{array,booktabs}"
        r"\usepackage[T1]{fontenc}\begin{document}" + body + r"\end{document}"
    )
    assert (
        subprocess.run(
            ["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, check=False
        ).returncode
        == 0
    )


def test_wide_columns_wrap():
    narrow, wide = pd.DataFrame({"a": ["1"]}), pd.DataFrame({"a": ["1"], "b": ["w " * 80]})
    assert r"\begin{tabular}{l}" in tables.latex(narrow, "")
    assert r"p{" in tables.latex(wide, "").split(r"\toprule")[0]
