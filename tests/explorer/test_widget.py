"""The widget without a browser: its traits, its answers, notes and uploads."""

from io import BytesIO
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from her2lib.data.images import read_pixels
from her2lib.explorer.notes import read_notes
from her2lib.explorer.widget import Canvas

EVIL = "<img src=x onerror=alert(1)>_3+.png"


@pytest.fixture
def canvas(tmp_path, monkeypatch):
    """Canvas over two patches and no network; what it sends is in canvas.sent."""
    source = SimpleNamespace(
        table=pd.DataFrame({"name": ["p0", EVIL]}),
        study=SimpleNamespace(folder=tmp_path),
        catalogue=dict,
        opening_state=dict,
        add_patch=add_patch,
    )
    canvas = Canvas(source)
    canvas.sent = []
    monkeypatch.setattr(canvas, "send", lambda content, buffers=None: canvas.sent.append(content))
    return canvas


def add_patch(name, content):
    read_pixels(BytesIO(content))
    return {"name": name, "added": True}


def png():
    picture = BytesIO()
    Image.new("RGB", (70, 70), "white").save(picture, "PNG")
    return picture.getvalue()


def test_every_trait_is_in_the_docstring_and_in_the_pages_state():
    state = Canvas.default_state()
    assert {"patch", "network", "method", "layer", "head", "token", "opacity"} <= set(state)
    assert "catalogue" not in state
    assert [name for name in state if name not in Canvas.__doc__] == []


def test_a_trait_of_another_kind_is_refused(canvas):
    with pytest.raises(Exception, match="layer"):
        canvas.layer = "first"


def test_what_cannot_be_shown_is_answered_in_a_sentence(canvas):
    canvas._reply(canvas, {"id": 1, "take": "x.png"}, [b"no image"])
    assert canvas.sent[0]["id"] == 1
    assert canvas.sent[0]["error"].startswith("x.png cannot be shown:")
    assert canvas.added == []


def test_a_patch_from_outside_stands_at_the_end_and_is_in_sight(canvas):
    canvas._reply(canvas, {"id": 1, "take": "x.png"}, [png()])
    assert canvas.sent == [{"id": 1, "header": {}}]
    assert [row["name"] for row in canvas.added] == ["x.png"]
    assert canvas.patch == 2


def test_an_uploaded_file_is_taken_and_a_wrong_one_named(canvas):
    uploads = (
        {"name": "good.png", "content": memoryview(png())},
        {"name": "wrong.png", "content": memoryview(b"no image")},
    )
    canvas.add_uploads({"new": uploads})
    assert [row["name"] for row in canvas.added] == ["good.png"]
    assert canvas.sent[0] == {"status": "good.png was read and scored; it is not kept."}
    assert canvas.sent[1]["status"].startswith("wrong.png cannot be shown: ")


@pytest.mark.parametrize("score", ["", "2+"])
def test_the_notebooks_note_is_kept_with_and_without_a_proposed_score(canvas, tmp_path, score):
    note = {"reader": "A", "patch": EVIL, "score": score, "note": "seen"}
    canvas._reply(canvas, {"id": 3, "note": note}, [])
    assert canvas.sent == [{"id": 3, "header": {"sentence": f"Kept in A.csv: {EVIL}"}}]
    rows = read_notes(tmp_path / "notes")
    assert rows[["patch", "score", "note"]].to_numpy().tolist() == [[EVIL, score, "seen"]]


def test_a_note_that_is_not_on_the_disk_is_not_acknowledged(canvas, tmp_path):
    (tmp_path / "notes").write_text("a file where the folder should be")
    note = {"reader": "A", "patch": "p0", "score": "", "note": "seen"}
    canvas._reply(canvas, {"id": 4, "note": note}, [])
    assert set(canvas.sent[0]) == {"id", "error"}
    assert "cannot be shown" not in canvas.sent[0]["error"]
