"""The report on paper: printed by a browser, without paths of this machine."""

import re
import shutil
import zlib

import pytest

from her2lib.report import printing


@pytest.mark.skipif(not any(map(shutil.which, printing.BROWSERS)), reason="no Chromium on the PATH")
def test_a_browser_prints_the_page_without_paths_of_this_machine(tmp_path):
    file = tmp_path / "report.html"
    file.write_text(
        '<!DOCTYPE html><title>t</title><p id="a">Words <a href="numbers.csv">numbers</a> '
        '<a href="#a">up</a></p>'
    )
    assert printing.print_pdf(file) == ""
    content = file.with_suffix(".pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.S):
        inside = zlib.decompressobj()
        content += inside.decompress(stream) if stream[:1] == b"x" else b""
    assert str(tmp_path).encode() not in content
    assert b"file:" not in content
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.pdf"}
