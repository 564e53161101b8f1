"""The explorer in JupyterLab: its own controls, notes on the kernel's disk, linked widgets."""

import io
import re

import numpy as np
import pytest
from conftest import EVIL
from PIL import Image
from watching import colourful

from her2lib.explorer.notes import read_notes

pytestmark = pytest.mark.browser

DROP = """([bytes, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  document.querySelector(".her2 .panels").dispatchEvent(
    new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
MAP_IN_SIGHT = """() => {
  const { panels } = document.querySelector(".her2").explorer;
  const { stack } = panels.request(panels.settings()[1]);
  return panels.stacks.has(stack) && panels.views[1].map;
}"""


def linked_widget(widget, label):
    """Locator of the notebook's own ipywidget with that description."""
    text = widget.page.get_by_text(label, exact=True)
    return widget.page.locator(".jupyter-widgets:has(> label)", has=text).first


def noise_png(seed):
    """bytes of a PNG of noise, 130 px."""
    picture = io.BytesIO()
    values = np.random.default_rng(seed).integers(60, 220, (130, 130, 3))
    Image.fromarray(values.astype(np.uint8)).save(picture, "PNG")
    return picture.getvalue()


def wait_for_added_patch(widget, name):
    widget.page.wait_for_function(
        "(name) => document.querySelector('.her2 .probabilities h3').textContent === name",
        arg=name,
        timeout=20_000,
    )
    widget.page.wait_for_function(MAP_IN_SIGHT, timeout=20_000)
    widget.page.wait_for_timeout(120)


def assert_scored(widget):
    texts = widget.locator(".probabilities .percent").all_inner_texts()
    assert 97 <= sum(int(text.removesuffix(" %")) for text in texts) <= 103


def test_the_widget_shows_every_choice_in_its_pixels(widget, shown):
    study, table, _ = shown
    print(f"\nJupyterLab shows the study {study.name}: {len(table)} patches")
    names = widget.locator(".thumb .name").all_inner_texts()
    assert names[:3] == list(table["name"][:3])
    assert (EVIL in names) == (study.name != "demo")
    widget.changed(1, widget.choose_network, "ResNet18")
    assert re.match(r"ResNet18( \(COLLAPSED\))? · Grad-CAM for score", widget.caption(1))
    assert widget.field("layer").is_disabled()  # a CNN has none
    widget.shot(f"a1_grad_cam_{study.name}")
    widget.changed(1, widget.choose_network, "ViT-Tiny")
    widget.changed(1, widget.field("method").select_option, label="Attention")
    assert re.match(
        r"ViT-Tiny( \(COLLAPSED\))? · attention, layer 1, mean of heads, from CLS",
        widget.caption(1),
    )
    assert widget.field("target").is_disabled()  # attention knows no score
    widget.shot(f"a1_attention_{study.name}")
    widget.changed(1, widget.field("stretch").check)
    widget.changed(1, widget.turn, "layer", ["ArrowRight"])
    widget.changed(1, widget.turn, "head", ["ArrowRight", "ArrowRight"])
    assert "layer 2, head 2, from CLS" in widget.caption(1)
    _, faint = widget.changed(1, widget.turn, "opacity", ["Home"])
    assert colourful(faint) < 1
    _, strong = widget.changed(1, widget.turn, "opacity", ["End"])
    assert colourful(strong) > 20
    view = widget.locator(".panel canvas.view").nth(1)
    widget.changed(1, view.click, position={"x": 12, "y": 12})
    widget.page.wait_for_function(
        "() => document.querySelectorAll('.her2 figcaption')[1].textContent"
        ".includes('head 2, from token row 1, column 1, mean distance')"
    )
    widget.page.wait_for_function(
        "() => document.querySelector('.her2 .status').textContent"
        ".startsWith('Attention now starts from the token in row 1, column 1: ')"
    )
    widget.shot(f"a2_token_{study.name}")
    widget.changed(0, widget.locator(".thumb").nth(1).click)
    assert widget.text(".probabilities h3") == table["name"][1]


def test_a_note_is_on_the_kernels_disk_once_it_is_acknowledged(widget, shown):
    study, table, reports = shown
    widget.locator(".thumb").nth(1).click()
    widget.page.get_by_label("Reader").fill("Dr. X")
    widget.page.get_by_label("Proposed").select_option("2+")
    # Typed letter by letter: neither JupyterLab's keys nor the explorer's own may take them.
    note = widget.page.get_by_label("Note", exact=True)
    note.press_sequentially("seen in the notebook, jkl dd")
    cells = widget.page.locator(".jp-Notebook .jp-Cell").count()
    widget.page.get_by_role("button", name="Save note").click()
    widget.page.get_by_text(f"Kept in Dr_X.csv: {table['name'][1]}").wait_for()
    assert note.input_value() == ""
    assert widget.page.locator(".jp-Notebook .jp-Cell").count() == cells
    rows = read_notes(reports / study.name / "notes")
    last = rows.loc[rows["reader"] == "Dr. X", ["patch", "score", "note"]].to_numpy().tolist()[-1]
    assert last == [table["name"][1], "2+", "seen in the notebook, jkl dd"]
    assert (reports / study.name / "explorer.html").is_file()
    widget.shot(f"a3_note_{study.name}")


def test_a_refused_note_says_why_and_stays_in_the_form(widget):
    note = widget.page.get_by_label("Note", exact=True)
    widget.page.get_by_label("Reader").fill("")
    note.fill("whose?")
    widget.page.get_by_role("button", name="Save note").click()
    assert "Give your name" in widget.text(".notes .sentence")
    assert note.input_value() == "whose?"
    note.fill("")


def test_a_researchers_own_slider_moves_the_maps_and_the_explorers_own(widget):
    handle = linked_widget(widget, "Opacity").locator(".noUi-handle")
    handle.focus()
    _, strong = widget.changed(1, handle.press, "Home")
    assert colourful(strong) < 1
    assert widget.text(".field.opacity output") == "0 %"
    _, strong = widget.changed(1, handle.press, "End")
    assert colourful(strong) > 5
    assert widget.text(".field.opacity output") == "100 %"


def test_a_dropped_file_is_scored_and_mapped(widget, shown):
    before = widget.text(".count")
    widget.page.evaluate(DROP, [list(noise_png(0)), "<b>own</b>.png"])
    wait_for_added_patch(widget, "<b>own</b>.png")
    assert widget.text(".count") != before
    assert_scored(widget)
    assert "was read and scored; it is not kept" in widget.text(".status")
    widget.shot(f"a4_dropped_{shown[0].name}")


def test_an_uploaded_file_is_scored_and_mapped_and_a_wrong_one_named(widget):
    button = widget.page.get_by_role("button", name="Your patch")
    picture = {"name": "upload.png", "mimeType": "image/png", "buffer": noise_png(1)}
    with widget.page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(picture)
    wait_for_added_patch(widget, "upload.png")
    assert_scored(widget)
    assert "upload.png was read and scored; it is not kept" in widget.text(".status")
    with widget.page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files({"name": "no.png", "mimeType": "image/png", "buffer": b"no image"})
    widget.page.get_by_text("no.png cannot be shown").wait_for()


def test_nothing_of_the_explorer_is_in_the_browsers_errors(widget):
    errors = [text for text in widget.errors if re.search("her2|anywidget", text, re.I)]
    assert errors == []
