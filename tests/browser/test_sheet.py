"""The reading sheet in a browser, from file://: blind, by keys and clicks, its CSV comes back."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import EVIL, patches

from her2lib import cli
from her2lib.data.patches import read_table
from her2lib.intake.columns import rater_columns
from her2lib.readers import sheets

pytestmark = pytest.mark.browser
# a folder that keeps a screenshot of each state, for a person to look at
SHOTS = os.environ.get("HER2_SHOTS")
READER = "Dr. <b onclick=alert(1)>A</b>"
SHOWN = """() => {
    const texts = [document.documentElement.outerHTML];
    for (const node of document.querySelectorAll("*"))
        for (const attribute of node.attributes) texts.push(attribute.value);
    return texts.join(" ");
}"""


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    """(manifest, table, folder of sheets) of eight patches, two of them twice, for two readers.

    One reader has a strange name.
    """
    folder = tmp_path_factory.mktemp("read")
    (folder / "data").mkdir()
    manifest = patches(folder / "data", 8, side_px=256)
    table = read_table(manifest)[0]
    written = sheets.write_sheets(table, folder / "sheets", readers=[READER, "B"], repeats=0.25)
    return manifest, table, written


@pytest.fixture
def opened(browser, handed_out):
    """function (reader, **context options) -> (page, rows of its key).

    At the end the page has said nothing and asked for nothing outside.
    """
    messages = []
    requests = []
    contexts = []
    key = pd.read_csv(handed_out[2] / "key.csv", dtype=str)

    def on_console(message):
        if message.type in ("error", "warning"):
            messages.append(message.text)

    def on_dialog(dialog):
        messages.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def page_of(reader, width=1280, height=800, **options):
        viewport = {"width": width, "height": height}
        context = browser.new_context(
            viewport=viewport, offline=True, accept_downloads=True, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", on_console)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", on_dialog)
        page.on("request", lambda request: requests.append(request.url))
        page.goto((handed_out[2] / sheets.reader_folder(reader) / "sheet.html").as_uri())
        drawn(page)
        return page, key[key["rater"] == reader].reset_index(drop=True)

    yield page_of
    for context in contexts:
        context.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("file://", "blob:"))] == []


def drawn(page):
    """Returns once the patch is in sight."""
    page.wait_for_function("""() => {
        const image = document.getElementById("patch");
        return image.complete && image.naturalWidth && image.style.transform;
    }""")


def shot(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def saved(page):
    """Path of what the save button brings down, by the name it has."""
    with page.expect_download() as down:
        page.get_by_role("button", name="Save").click()
    assert down.value.suggested_filename == "sheet.csv"
    return down.value.path()


def test_nothing_on_the_page_tells_name_or_score(handed_out, opened):
    page, key = opened(READER)
    # as text: no such element, nothing to click
    assert page.locator("#reader").inner_text() == f"Sheet of {READER}"
    assert page.locator("header b").count() == 1
    # no score is chosen before the reader chose
    assert page.locator("#scores .on").count() == 0
    for number, code in enumerate(key["code"]):
        text = page.evaluate(SHOWN) + page.inner_text("body") + page.title()
        for name in handed_out[1]["name"]:
            assert name not in text
            assert name.rsplit("_", 1)[0] not in text
        assert not {"onerror", "src=x"} & set(text.split())
        assert f"Patch {number + 1} of {len(key)}" in text
        assert page.locator("#patch").get_attribute("src") == f"images/{code}.png"
        assert page.locator("#scores .on").count() == 0
        page.keyboard.press("ArrowRight")
        drawn(page)


def test_read_by_key_and_click_kept_and_gathered(handed_out, opened, tmp_path, capsys):
    page, key = opened(READER)
    shot(page, "s0_open")
    page.keyboard.press("3")
    page.get_by_role("button", name="1+", exact=True).click()
    page.get_by_role("button", name="cannot be scored").click()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    # a second thought about the second patch
    page.keyboard.press("2")
    page.keyboard.press("ArrowRight")
    # keys in the remark score nothing
    page.get_by_label("Remark").fill('faint; "2" = edge, 3')
    page.keyboard.press("Enter")
    assert "Patch 4 of 10" in page.inner_text("header")
    assert "7 not read yet" in page.inner_text("header")
    shot(page, "s1_some")
    page.reload()
    drawn(page)
    # where the reader left off
    assert "Patch 4 of 10" in page.inner_text("header")
    assert "7 not read yet" in page.inner_text("header")
    for score in "0120123":
        page.keyboard.press(score)
    assert "All are read" in page.inner_text("header")
    shot(page, "s2_all")
    folder = tmp_path / "sheets"
    shutil.copytree(handed_out[2], folder)
    shutil.copy(saved(page), folder / sheets.reader_folder(READER) / "sheet.csv")
    file = folder / sheets.reader_folder(READER) / "sheet.csv"
    sheet = pd.read_csv(file, dtype=str, keep_default_na=False)
    assert sheet["score"].tolist() == ["3+", "2+", "", "0", "1+", "2+", "0", "1+", "2+", "3+"]
    remarks = ["", "", "cannot be scored", 'faint; "2" = edge, 3', "", "", "", "", "", ""]
    assert sheet["remark"].tolist() == remarks
    ratings, problems = sheets.gather_sheets(folder)
    assert problems == []
    score_of = ratings.set_index(["patch", "reading"])["score"]
    for row, score in zip(key.itertuples(), [3, 2, None, 0, 1, 2, 0, 1, 2, 3], strict=True):
        assert score_of.get((row.patch, int(row.reading))) == score
    assert EVIL in set(ratings["patch"])
    manifest = shutil.copytree(handed_out[0].parent, tmp_path / "data") / "manifest.csv"
    code = cli.main(["consensus", str(folder), "--into", str(manifest)])
    assert code == 0, capsys.readouterr().out
    merged = read_table(manifest)[0].set_index("name")
    first = key[key["reading"] == "1"].merge(sheet, on="code")
    first = first[first["score"] != ""]
    wanted = [int(score[0]) for score in first["score"]]
    assert merged.loc[first["patch"], f"rater_{READER}".lower()].tolist() == wanted
    # two readers stood in the manifest before, so the consensus is that of three
    readings = merged[rater_columns(merged)].to_numpy()
    assert readings.shape == (8, 3)
    for row, score in zip(readings, merged["score"], strict=True):
        votes = np.bincount(row[row >= 0], minlength=4)
        if (votes == votes.max()).sum() == 1:
            assert score == votes.argmax()


def test_two_sheets_in_one_browser_do_not_share_what_was_read(handed_out, opened, tmp_path):
    page, _ = opened("B")
    page.keyboard.press("3")
    _, table, folder = handed_out
    options = {"readers": [READER, "B"], "repeats": 0.25}
    again = sheets.write_sheets(table, tmp_path / "again", **options)
    page.goto((again / "B" / "sheet.html").as_uri())
    drawn(page)
    assert "10 not read yet" in page.inner_text("header")
    other = sheets.write_sheets(table.iloc[1:], tmp_path / "other", **options)
    keys = [pd.read_csv(one / "key.csv", dtype=str) for one in (folder, other)]
    # a sheet laid into the wrong folder is named, not read
    assert not set(keys[0]["code"]) & set(keys[1]["code"])


def test_zoom_goes_to_the_pixel_and_the_page_fits_a_tablet(opened):
    page, _ = opened("B", 820, 1180, has_touch=True, is_mobile=True)
    shot(page, "s3_tablet")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    wide = page.locator("#patch").bounding_box()["width"]
    stage = page.locator("#stage").bounding_box()
    # the whole patch, as large as it goes
    assert wide == pytest.approx(min(stage["width"], stage["height"]), abs=1)
    assert page.locator("#bar").inner_text() == "20 µm"
    assert page.locator("#bar").bounding_box()["width"] == pytest.approx(
        20 / 0.5 * wide / 256, abs=1
    )
    page.touchscreen.tap(stage["x"] + 100, stage["y"] + stage["height"] / 2)
    assert page.locator("#patch").bounding_box()["width"] >= 2 * wide - 1
    shot(page, "s4_near")
    page.locator("#back").tap()
    page.get_by_role("button", name="2+").tap()
    # the next patch is seen whole first
    assert page.locator("#patch").bounding_box()["width"] == pytest.approx(wide, abs=1)
    assert "9 not read yet" in page.inner_text("header")
    controls = page.locator("footer button, footer input").all()
    assert len(controls) == 9
    for control in controls:
        assert control.bounding_box()["height"] >= 44
