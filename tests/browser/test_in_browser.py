"""The explorer's page in a real browser, without a kernel, from file://; pixels and words."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import EVIL
from PIL import Image
from watching import SHOTS, TELL_INPUT, Watched, colourful, open_page, wait_until_drawn

from her2lib import files
from her2lib.explorer import page as explorer_page

pytestmark = pytest.mark.browser

PAGE_DATA = re.compile(r'(id="her2-data">)(.*?)(</script>)', re.S)
FOCUSED = """(() => {
  const node = document.activeElement;
  return node.closest("label")?.className.split(" ").at(-1) ?? node.textContent;
})()"""
REACHED_BY_TAB = {
    *("truth", "predicted", "verdict", "sure_from", "sure_to", "disagree", "doubt"),
    *("shows", "network", "method", "layer", "head"),
    *("opacity", "threshold", "smooth", "stretch"),
    *("Screenshot", "Save note", "Download notes"),
}


@pytest.fixture
def page(browser, page_file):
    """Watched page of the small study, which asks nothing of the network and has no error."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, offline=True, accept_downloads=True
    )
    watched = open_page(context, page_file, "b0_open")
    yield watched
    context.close()
    assert watched.errors == []
    inside = ("file://", "blob:", "data:")
    assert [url for url in watched.requests if not url.startswith(inside)] == []


def show_hostile_patch(page):
    page.changed(0, page.locator(".thumb", has_text="onerror").click)


def other_page(page_file, file, change):
    """Path of a page whose data were changed: change(content) in place, of what the page holds."""
    text = page_file.read_text(encoding="utf-8")
    content = json.loads(PAGE_DATA.search(text)[2])
    change(content)
    data = json.dumps(content).replace("<", "\\u003c")
    file.write_text(PAGE_DATA.sub(lambda m: m[1] + data + m[3], text), encoding="utf-8")
    return file


# --- panels and maps -----------------------------------------------------------------------------


def test_the_page_shows_every_choice_in_its_pixels(page):
    original = page.pixels(0)
    assert colourful(original) > 5
    # One epoch teaches nothing, and the page says so.
    assert page.caption(1).startswith("ViT-Tiny (COLLAPSED) · Grad-CAM for score ")
    page.changed(1, page.choose_network, "ResNet18")
    assert re.match(
        r"ResNet18( \(COLLAPSED\))? · Grad-CAM for score [0-3]\+?, predicted$", page.caption(1)
    )
    assert page.text(".panel >> nth=1 >> .unit").startswith("purple speaks against score")
    _, grad_cam = page.changed(1, page.choose_network, "ViT-Tiny")
    assert re.match(r"ViT-Tiny( \(COLLAPSED\))? · Grad-CAM for", page.caption(1))
    _, attention = page.changed(1, page.select, "method", "attention")
    assert "attention, layer 1, mean of heads, from CLS" in page.caption(1)
    # One epoch leaves attention nearly even: only when stretched do layers differ visibly.
    page.changed(1, page.field("stretch").check)
    assert not np.array_equal(attention, grad_cam)
    page.shot("b1_attention")
    page.changed(1, page.slide, "layer", 5)
    page.changed(1, page.slide, "head", 2)
    assert "layer 5, head 2, from CLS" in page.caption(1)
    _, faint = page.changed(1, page.slide, "opacity", 0.0)
    assert colourful(faint) < 1  # the patch alone, in grey
    _, strong = page.changed(1, page.slide, "opacity", 1.0)
    assert colourful(strong) > 20
    _, cut = page.changed(1, page.slide, "threshold", 0.9)
    assert colourful(cut) < colourful(strong)
    page.shot("b2_threshold")
    page.changed(1, page.slide, "threshold", 0.0)
    assert np.array_equal(original, page.pixels(0))


def test_a_click_on_attention_picks_a_token_and_says_how_far_it_looks(page):
    original = page.pixels(0)
    page.changed(1, page.select, "method", "attention")
    page.changed(1, page.field("stretch").check)
    page.changed(1, page.slide, "layer", 5)
    page.changed(1, page.slide, "head", 2)
    page.locator(".panel canvas.view").nth(1).click(position={"x": 400, "y": 40})
    page.page.wait_for_function(
        "() => document.querySelectorAll('.her2 figcaption')[1].textContent"
        ".includes('from token row 1, column 4, mean distance')"
    )
    assert re.search(r"mean distance \d+ px \(\d+ µm\)", page.caption(1))
    assert re.fullmatch(
        r"Attention now starts from the token in row 1, column 4: "
        r"on average it looks \d+ px \(\d+ µm\) away. Esc goes back.",
        page.text(".status"),
    )
    # Of the map in sight, not of the one before.
    assert re.search(
        r"row 1, column 4 of 4 x 4 · 0 px \(0 µm\) from the token$", page.text(".values")
    )
    # The page holds the mean of the heads for tokens.
    assert page.field("head").is_disabled()
    page.shot("b3_token")
    assert np.array_equal(original, page.pixels(0))


def test_controls_that_change_nothing_are_switched_off_and_a_collapsed_run_is_named(page):
    fields = ("method", "target", "layer", "head")

    def switched_off():
        page.page.wait_for_timeout(120)
        return [page.field(key).is_disabled() for key in fields]

    names = page.field("network").locator("option").all_inner_texts()
    assert "ViT-Tiny (COLLAPSED)" in names
    assert switched_off() == [False, False, True, True]
    page.select("method", "attention")
    assert switched_off() == [False, True, False, False]
    page.select("shows", "dab")
    assert switched_off() == [True, True, True, True]


def test_without_a_finished_network_the_page_opens_and_its_menus_say_so(
    browser, page_file, tmp_path
):
    def forget_networks(content):
        panel = {"shows": "dab", "network": "", "method": "grad_cam", "layer": 1, "head": 0}
        content["catalogue"]["networks"] = []
        for patch in content["catalogue"]["patches"]:
            patch["probabilities"] = {}
        content["state"] |= {**panel, "panels": [{**panel, "shows": "original"}, panel]}

    file = other_page(page_file, tmp_path / "none.html", forget_networks)
    context = browser.new_context(offline=True)
    page = open_page_without_maps(context, file)
    assert page.field("network").locator("option").all_inner_texts() == ["none has finished"]
    assert page.field("shows").input_value() == "dab"
    assert all(page.field(key).is_disabled() for key in ("method", "target", "layer", "head"))
    assert colourful(page.pixels(1)) > 3
    assert page.text(".status").startswith("No network of this study has finished")
    page.shot("b16_no_network")
    context.close()
    assert page.errors == []


def open_page_without_maps(context, file):
    watched = Watched(context.new_page(), "#her2-explorer")
    watched.page.goto(file.as_uri())
    watched.wait_for("explorer?.panels.views.length && explorer.panels.views[1].picture")
    watched.page.wait_for_timeout(120)
    return watched


def test_each_panel_shows_what_it_is_told(page):
    for kind in ("he", "dab", "haematoxylin"):
        page.changed(1, page.select, "shows", kind)
        page.shot(f"b11_{kind}")
    large = page.pixels(1)
    page.page.get_by_role("button", name="More panels").click()
    page.page.get_by_role("button", name="More panels").click()
    page.page.wait_for_timeout(200)
    assert page.locator(".panel").count() == 4
    page.select("shows", "dab")
    page.page.wait_for_timeout(200)
    small = page.pixels(3)
    assert colourful(small) > 3
    assert large.shape[0] > small.shape[0]
    page.shot("b12_four")
    page.page.get_by_role("button", name="Fewer panels").click()
    page.page.wait_for_timeout(100)
    assert page.locator(".panel").count() == 3
    page.locator(".thumb", has_text="00001_1+").click()
    page.locator(".panel").nth(1).focus()
    page.select("shows", "he")
    page.page.wait_for_timeout(200)
    assert page.ask("explorer.panels.views[1].error") == "This patch has no HE partner."


# --- the strip and its filters -------------------------------------------------------------------


def test_patches_and_names_that_strangers_gave(page):
    show_hostile_patch(page)
    assert page.text(".probabilities h3") == EVIL
    assert EVIL in page.locator(".thumb .name").all_inner_texts()
    assert page.locator("img[src='x']").count() == 0
    assert page.text(".count") == "12 of 12 patches."
    page.changed(0, page.locator(".thumb").nth(1).click)
    assert page.text(".probabilities h3") == page.locator(".thumb .name").nth(1).inner_text()


def test_every_filter_lists_the_patches_that_fit(page):
    def listed(**filters):
        for key, value in filters.items():
            if isinstance(value, bool):
                page.field(key).set_checked(value)
            else:
                page.field(key).evaluate(TELL_INPUT, str(value))
        page.page.wait_for_timeout(120)
        return page.ask("explorer.strip.rows.map((i) => explorer.catalogue.patches[i].name)")

    catalogue = page.ask("explorer.catalogue")
    run = catalogue["networks"][0]["run"]
    patches = {patch["name"]: patch for patch in catalogue["patches"]}
    names = list(patches)
    truth = {name: patch["truth"] for name, patch in patches.items()}
    predicted = {name: int(np.argmax(p["probabilities"][run])) for name, p in patches.items()}
    sure = {name: 100 * max(p["probabilities"][run]) for name, p in patches.items()}

    assert listed(search="ONERROR") == [EVIL]
    assert listed(search="no such file") == []
    assert "Widen the filters" in page.text(".count")
    assert listed(search="", truth="2+") == [name for name in names if truth[name] == 2]
    assert listed(truth="any", predicted="3+") == [name for name in names if predicted[name] == 3]
    right = [name for name in names if predicted[name] == truth[name]]
    assert listed(predicted="any", verdict="right") == right
    assert listed(verdict="wrong") == [name for name in names if name not in right]
    middle = round(sorted(sure.values())[6])
    above = [name for name in names if sure[name] >= middle]
    assert listed(verdict="any", sure_from=middle) == above
    assert listed(sure_from=0, sure_to=middle) == [name for name in names if sure[name] <= middle]
    differ = [name for name in names if len(set(patches[name]["raters"].values())) > 1]
    assert listed(sure_to=100, disagree=True) == differ
    assert 0 < len(differ) < 12
    doubtful = [name for name in names if patches[name]["doubt"] > 0.5]
    doubtful.sort(key=lambda name: -patches[name]["doubt"])
    assert listed(disagree=False, doubt=True) == doubtful
    assert len(doubtful) == 3
    page.shot("b4_filter")


def test_five_thousand_patches_cost_what_is_in_sight(browser, page_file, tmp_path):
    def multiply(content):
        rows = content["catalogue"]["patches"]
        many = [{**rows[k % 12], "name": f"{k:05}.png"} for k in range(5000)]
        content["catalogue"]["patches"] = many

    file = other_page(page_file, tmp_path / "many.html", multiply)
    context = browser.new_context(offline=True)
    page = open_page(context, file, "b14_many")
    assert page.text(".count") == "5000 of 5000 patches."
    assert page.locator(".thumb").count() < 40
    page.locator(".strip").evaluate("(node) => (node.scrollLeft = 104 * 4000)")
    page.page.wait_for_function(
        "() => document.querySelector('.thumb .name').textContent.startsWith('039')"
    )
    assert page.locator(".thumb").count() < 40
    context.close()


def test_what_passes_the_limit_lies_in_files_beside_the_page(
    browser, small_study, tmp_path, monkeypatch
):
    study, data, _, home = small_study
    monkeypatch.setattr(files, "REPORTS", tmp_path)
    (tmp_path / study.name).mkdir()
    (tmp_path / study.name / "runs").symlink_to(home / "reports" / study.name / "runs")
    monkeypatch.setattr(explorer_page, "LIMIT_BYTES", 700_000)
    file = explorer_page.write_page(study, data, patches=12, progress=False)
    beside = sorted(path.name for path in (file.parent / "explorer_files").iterdir())
    assert 0 < len(beside) < 12
    assert file.stat().st_size < 1_000_000

    context = browser.new_context(offline=True)
    page = open_page(context, file, "b13_sidecar")
    page.locator(".strip").focus()
    page.changed(0, page.page.keyboard.press, "End")
    asked = [url.rsplit("/", 1)[1] for url in page.requests if "explorer_files" in url]
    assert asked == ["011.js"]
    page.wait_for("explorer.panels.views[1].map")
    (file.parent / "explorer_files" / "010.js").unlink()
    page.page.keyboard.press("ArrowLeft")
    page.wait_for("explorer.panels.views[1].error.includes('010.js is missing: copy that folder')")
    context.close()


# --- keys and fingers ----------------------------------------------------------------------------


def test_keys_do_everything(page):
    press = page.page.keyboard.press
    page.locator(".strip").focus()
    page.changed(0, press, "ArrowRight")
    assert page.state("patch") == 1
    press("End")
    assert page.state("patch") == 11
    press("Home")
    assert page.state("patch") == 0
    press("2")
    label = page.page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("Panel 2")
    page.choose_network("ViT-Tiny")
    page.locator(".panel").nth(1).focus()
    page.field("stretch").check()
    page.locator(".panel").nth(1).focus()
    page.changed(1, press, "]")
    assert "layer 2, mean of heads" in page.caption(1)
    page.changed(1, press, ".")
    assert "layer 2, head 1" in page.caption(1)
    page.changed(1, press, "t")
    assert "from token row 3, column 3" in page.caption(1)
    page.changed(1, press, "l")
    assert "from token row 3, column 4" in page.caption(1)
    page.changed(1, press, "Escape")
    assert "from CLS" in page.caption(1)
    assert page.text(".status").startswith("Attention starts from CLS again")
    press("?")
    assert "Home, End first and last" in page.text("details.help")
    page.changed(0, press, "+")
    page.changed(0, press, "Shift+ArrowRight")
    press("0")
    page.locator("canvas.grid").focus()
    page.changed(1, press, "ArrowRight")
    assert "layer 3, head 1" in page.caption(1)
    page.changed(1, press, "ArrowDown")
    assert "layer 3, head 2" in page.caption(1)
    outline = page.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2
    page.shot("b5_keys")


def test_tab_reaches_every_control(page):
    page.select("method", "attention")
    page.page.wait_for_timeout(120)
    reached = set()
    page.field("search").focus()
    for _ in range(45):
        page.page.keyboard.press("Tab")
        reached.add(page.page.evaluate(FOCUSED))
    # Attention knows no score, so the menu of what a map explains is switched off.
    assert reached >= REACHED_BY_TAB


def test_home_and_end_on_a_slider_move_the_slider(page):
    page.changed(1, page.turn, "opacity", ["Home"])
    assert page.state("opacity") == 0
    page.changed(1, page.turn, "opacity", ["End"])
    assert page.state("opacity") == 1
    assert page.state("patch") == 0


def test_touch_moves_pinches_and_picks_a_token(browser, page_file):
    context = browser.new_context(
        viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True, offline=True
    )
    page = open_page(context, page_file, "b6_tablet")
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.choose_network("ViT-Tiny")
    page.select("method", "attention")
    box = page.locator(".panel canvas.view").nth(1).bounding_box()
    page.page.touchscreen.tap(box["x"] + 30, box["y"] + 30)
    page.page.wait_for_function(
        "() => document.querySelectorAll('.her2 figcaption')[1].textContent"
        ".includes('from token row 1, column 1')"
    )
    devtools = context.new_cdp_session(page.page)
    x = box["x"] + box["width"] / 2
    y = box["y"] + box["height"] / 2

    def pinch():
        for kind, apart in (("touchStart", 20), ("touchMove", 50), ("touchMove", 90)):
            points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    page.changed(0, pinch)
    assert page.ask("explorer.zoom.factor") > 2
    page.shot("b7_pinched")
    context.close()
    assert page.errors == []


# --- what leaves the page ------------------------------------------------------------------------


def test_notes_are_kept_by_reader_and_come_down_as_csv(page):
    def save_note(reader, proposed, note):
        page.page.get_by_label("Reader").fill(reader)
        page.page.get_by_label("Proposed").select_option(proposed)
        page.page.get_by_label("Note", exact=True).fill(note)
        page.page.get_by_role("button", name="Save note").click()

    show_hostile_patch(page)
    save_note("", "3+", "nobody")
    assert "Give your name" in page.text(".notes .sentence")
    save_note("A", "3+", '=cmd|" faint,\nedge')
    save_note("B", "", "<b>other</b>")
    assert page.locator(".notes .list li").all_inner_texts() == [
        'A: 3+, =cmd|" faint, edge',
        "B: no score, <b>other</b>",
    ]
    page.shot("b8_notes")
    page.page.reload()
    wait_until_drawn(page, "b9_again")
    show_hostile_patch(page)
    assert page.locator(".notes .list li").count() == 2
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="Download notes").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["reader"], row["patch"], row["score"]) for row in rows] == [
        ("A", EVIL, "3+"),
        ("B", EVIL, ""),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", row["time"]) for row in rows)


def test_the_screenshot_carries_its_caption(page):
    show_hostile_patch(page)
    caption = " ".join(page.ask("explorer.captions.lines()"))
    for part in (
        EVIL,
        "study strangers",
        "recipe as_presented, seed 0, weights none, 64 px",
        "Grad-CAM",
        "COLLAPSED: ",
        "Scaling: each map divided by",
        "Research use only",
    ):
        assert part in caption
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="Screenshot").click()
    assert re.fullmatch(r"[\w.+-]+\.png", download.value.suggested_filename)
    image = np.asarray(Image.open(download.value.path()).convert("RGB"))
    if SHOTS:
        download.value.save_as(f"{SHOTS}/b10_screenshot.png")
    assert image.shape[1] > 1100
    assert colourful(image[40:560, 600:1140]) > 5  # the second panel
    letters = image[-60:]
    assert letters.min() < 80  # dark letters on white
    assert (letters == 255).mean() > 0.7
