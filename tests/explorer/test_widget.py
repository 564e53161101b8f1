"""Explorer without a browser: quantised maps, attention rows, notes that survive readers and kills, the page's safety."""

import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from her2lib.data.images import read_pixels
from her2lib.explorer import source as source_
from her2lib.explorer import widget
from her2lib.maps import attribution
from her2lib.networks import models

EVIL = "<img src=x onerror=alert(1)>_3+.png"


def test_stack_keeps_each_maps_own_range_to_half_a_step():
    maps = torch.tensor(
        [[[0.0, 1.0], [2.0, 4.0]], [[-3.0, 0.0], [0.0, 3.0]], [[5.0, 5.0], [5.0, 5.0]]]
    )
    header, data = source_.stack(maps)
    values = np.frombuffer(data, np.uint8).reshape(header["shape"])
    low, high = (np.array(header[key])[:, None, None] for key in ("low", "high"))
    assert np.abs(low + values * (high - low) / 255 - maps.numpy()).max() <= 6 / 255 / 2 + 1e-6


@pytest.mark.parametrize("network", ["vit_tiny", "hybrid"])
def test_attention_rows_are_those_of_attribute(network):
    net = models.create(network, side_px=64, weights="none")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rows = source_.Source._attention(None, net, x)
    assert rows.shape == (2, net.layers * net.heads, *net.grid)
    assert torch.allclose(
        rows[:, net.heads + 2], attribution.attention(net, x, layer=1, head=2), atol=1e-6
    )
    tokens = source_.Source._attention(None, net, x, "1")
    assert torch.allclose(
        tokens[:, net.grid[1]], attribution.attention(net, x, layer=1, query=(1, 0)), atol=1e-6
    )


@pytest.mark.parametrize("network", ["resnet18", "vit_tiny", "hybrid"])
def test_the_networks_tangent_gives_every_map_that_the_network_gives(network):
    net = models.create(network, side_px=64, weights="none")
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    near, source = source_.Tangent(net, x), SimpleNamespace(map_px=56)
    for kind, *rest in source_.asks(net):
        see = partial(source_.Source._map if kind == "map" else source_.Source._attention, source)
        exact, quick = see(net, x, *rest), see(near, x, *rest)
        assert torch.allclose(quick, exact, atol=1e-6, rtol=2e-4), (kind, rest)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_page_takes_test_patches_first_and_the_scores_in_turn():
    table = pd.DataFrame({"set": ["train"] * 4 + ["test"] * 4, "score": [0, 1, 2, 3, 2, 2, 1, 3]})
    assert widget._chosen(table, 5) == [6, 4, 7, 5, 0]


def test_readers_notes_stand_in_their_own_files_and_never_overwrite(tmp_path):
    first = widget.add_note(tmp_path, "Dr. A/../x", EVIL, "3", 'faint, "blush"\nat the edge')
    second = widget.add_note(tmp_path, "B", EVIL, "2+", "")
    widget.add_note(tmp_path, "Dr. A/../x", "p2", "", "again")
    assert first.parent == second.parent == tmp_path
    assert first != second
    rows = widget.notes(tmp_path)
    assert sorted(rows["reader"]) == ["B", "Dr. A/../x", "Dr. A/../x"]
    assert set(rows["patch"]) == {EVIL, "p2"}
    assert set(rows["score"]) == {"3+", "2+", ""}
    assert 'faint, "blush" at the edge' in set(rows["note"])


def test_a_note_needs_a_reader_and_a_real_score(tmp_path):
    with pytest.raises(ValueError, match="name as reader"):
        widget.add_note(tmp_path, " ", "p", "1+", "")
    with pytest.raises(ValueError, match="not a HER2 score"):
        widget.add_note(tmp_path, "A", "p", "7", "")


def test_a_torn_row_is_dropped_and_the_next_note_is_whole(tmp_path):
    file = widget.add_note(tmp_path, "A", "p1", "1+", "kept")
    with file.open("ab") as out:
        out.write(b'2026,A,p2,2+,"torn')
    assert list(widget.notes(tmp_path)["patch"]) == ["p1"]
    widget.add_note(tmp_path, "A", "p3", "3+", "whole")
    assert list(widget.notes(tmp_path)["patch"]) == ["p1", "p3"]


def test_a_kill_while_writing_loses_no_note_that_was_acknowledged(tmp_path):
    code = (
        "import sys\nfrom her2lib.explorer import widget as explorer\n"
        "for k in range(10**6):\n    explorer.add_note(sys.argv[1], 'A', f'p{k}', '1+', 'x' * 500)\n    print(k, flush=True)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    writer.stdout.readline()
    time.sleep(0.5)
    writer.send_signal(signal.SIGKILL)
    told = 1 + len([line for line in writer.communicate()[0].splitlines() if line])
    assert len(widget.notes(tmp_path)) in (told, told + 1)
    widget.add_note(tmp_path, "A", "after", "", "goes on")
    assert widget.notes(tmp_path)["patch"].iloc[-1] == "after"


def test_the_page_lets_no_file_name_end_its_data_and_names_no_address():
    page = widget._page("s", {"catalogue": {"name": "</script>" + EVIL}})
    assert EVIL not in page
    held = re.search(r'id="her2-data">(.*?)</script>', page, re.S)[1]
    assert json.loads(held)["catalogue"]["name"] == "</script>" + EVIL
    assert "default-src 'none'" in page
    assert not re.search(r"https?://", page)
    assert "innerHTML" not in page


def test_what_cannot_be_shown_is_answered_in_a_sentence():
    sent = []
    canvas = SimpleNamespace(extra=[], send=lambda message, buffers=None: sent.append(message))
    source = SimpleNamespace(take=lambda name, content: read_pixels(BytesIO(content)))
    widget._reply(source, canvas, {"id": 1, "take": "x.png"}, [b"no image"])
    assert sent[0]["id"] == 1
    assert sent[0]["error"].startswith("x.png cannot be shown:")
    assert canvas.extra == []


@pytest.mark.parametrize("score", ["", "2+"])
def test_the_notebooks_note_is_kept_with_and_without_a_proposed_score(tmp_path, score):
    source = SimpleNamespace(
        table=pd.DataFrame({"name": ["p0", EVIL]}), study=SimpleNamespace(folder=tmp_path)
    )
    reader, proposed, note, save, told = widget._noting(source, SimpleNamespace(patch=1, extra=[]))
    reader.value, proposed.value, note.value = "A", score, "seen"
    save.click()
    assert told.value == f"Kept in A.csv: {EVIL}"
    assert widget.notes(tmp_path / "notes")[["patch", "score", "note"]].to_numpy().tolist() == [
        [EVIL, score, "seen"]
    ]


def test_without_a_finished_network_the_widget_opens_and_its_menus_say_so():
    source = SimpleNamespace(
        networks={}, table=pd.DataFrame({"name": ["p0"]}), study=SimpleNamespace(folder=None)
    )
    canvas = widget.Canvas(catalogue={"shows": source_.SHOWS}, **widget._start(source))
    parts = {
        part.description: part
        for part in widget._controls(source, canvas).children
        if hasattr(part, "description")
    }
    assert parts["Network"].options == (("none has finished", ""),)
    assert parts["Shows"].value == canvas.shows == "dab"
    assert all(parts[name].disabled for name in ("Method", "Explains", "Layer", "Head, 0 all"))


def test_controls_that_change_nothing_are_switched_off_and_a_collapsed_run_is_named():
    net = SimpleNamespace(layers=12, heads=3)
    source = SimpleNamespace(
        networks={"v": ("ViT-Tiny (COLLAPSED)", net, {})},
        table=pd.DataFrame({"name": ["p0"]}),
        study=SimpleNamespace(folder=None),
    )
    canvas = widget.Canvas(catalogue={"shows": source_.SHOWS}, **widget._start(source))
    parts = {
        part.description: part
        for part in widget._controls(source, canvas).children
        if hasattr(part, "description")
    }
    names = ("Method", "Explains", "Layer", "Head, 0 all")
    assert parts["Network"].options == (("ViT-Tiny (COLLAPSED)", "v"),)
    assert [parts[name].disabled for name in names] == [False, False, True, True]
    canvas.method = "attention"
    assert [parts[name].disabled for name in names] == [False, True, False, False]
    canvas.shows = "dab"
    assert all(parts[name].disabled for name in names)


def test_label_doubt_is_read_where_the_review_wrote_it_and_a_foreign_table_is_named(tmp_path):
    study = SimpleNamespace(folder=tmp_path, folder_of=lambda task: tmp_path / "runs" / task)
    assert widget.read_doubts(study) is None
    file = tmp_path / "runs" / "09_label_review" / "doubt.csv"
    file.parent.mkdir(parents=True)
    pd.DataFrame({"patch": ["a", "007"], "doubt": [0.9, float("nan")], "kind": "x"}).to_csv(
        file, index=False
    )
    table = widget.read_doubts(study)
    assert table["patch"].tolist() == ["a", "007"]
    assert list(table) == ["patch", "doubt"]
    file.write_text("patch,reason\na,b\n")
    with pytest.raises(ValueError, match="has no column doubt"):
        widget.read_doubts(study)
