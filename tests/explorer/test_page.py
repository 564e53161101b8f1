"""The page without a browser: which patches it takes, what it shares out, what it lets in."""

import json
import re

import pandas as pd

from her2lib.explorer import page

EVIL = "<img src=x onerror=alert(1)>_3+.png"


def test_page_takes_test_patches_first_and_the_scores_in_turn():
    table = pd.DataFrame({"set": ["train"] * 4 + ["test"] * 4, "score": [0, 1, 2, 3, 2, 2, 1, 3]})
    assert page._choose_patches(table, 5) == [6, 4, 7, 5, 0]


def test_the_page_lets_no_file_name_end_its_data_and_names_no_address():
    html = page._render_page("s", {"catalogue": {"name": "</script>" + EVIL}})
    assert EVIL not in html
    data = re.search(r'id="her2-data">(.*?)</script>', html, re.S)[1]
    assert json.loads(data)["catalogue"]["name"] == "</script>" + EVIL
    assert "default-src 'none'" in html
    assert not re.search(r"https?://", html)
    assert "innerHTML" not in html


def test_what_passes_the_limit_goes_beside_the_page_and_old_files_go_away(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LIMIT_BYTES", 300)
    files = tmp_path / "explorer_files"
    files.mkdir()
    (files / "007.js").write_text("of an earlier, larger page")
    packets = []
    for patch in range(2):
        packets.append({f"thumb/{patch}": [{}, "t"], f"picture/{patch}/ihc": [{}, "x" * 200]})
    records, sidecars = page._share_out(tmp_path, packets)
    assert set(records) == {"thumb/0", "picture/0/ihc", "thumb/1"}
    assert sidecars == {1: "explorer_files/001.js"}
    assert [file.name for file in files.iterdir()] == ["001.js"]
    text = (files / "001.js").read_text()
    assert json.loads(text.removeprefix("her2Sidecar(").removesuffix(")")) == packets[1]
