"""The reading sheet in a real browser, from file://: blinded, read by keys and clicks, kept over a reload, and its CSV comes back."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import EVIL, patches

from her2lib import cli
from her2lib.data.patches import read_table
from her2lib.readers import sheets

pytestmark = pytest.mark.browser
SHOTS = os.environ.get(
    "HER2_SHOTS"
)  # a folder that keeps a screenshot of each state, for a person to look at
READER = "Dr. <b onclick=alert(1)>A</b>"
SHOWN = "[document.documentElement.outerHTML, ...[...document.querySelectorAll('*')].flatMap((n) => [...n.attributes].map((a) => a.value))].join(' ')"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(manifest, table, folder of sheets): eight patches, two of them twice, for a reader with a strange name and for B."""
    place = tmp_path_factory.mktemp("read")
    (place / "data").mkdir()
    manifest = patches(place / "data", 8, side_px=256)
    table = read_table(manifest)[0]
    return (
        manifest,
        table,
        sheets.write_sheets(table, place / "sheets", readers=[READER, "B"], repeats=0.25),
    )


@pytest.fixture
def opened(browser, made):
    """function (reader, **context options) -> (page, rows of its key); at the end nothing was said and nothing asked for outside."""
    said, asked, contexts = [], [], []
    key = pd.read_csv(made[2] / "key.csv", dtype=str)

    def page_of(reader, width=1280, height=800, **more):
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": height},
                offline=True,
                accept_downloads=True,
                **more,
            )
        )
        page = contexts[-1].new_page()
        page.on(
            "console",
            lambda message: (
                said.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss())
        )
        page.on("request", lambda request: asked.append(request.url))
        page.goto((made[2] / sheets._folder(reader) / "sheet.html").as_uri())
        drawn(page)
        return page, key[key["rater"] == reader].reset_index(drop=True)

    yield page_of
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file://", "blob:"))] == []


def drawn(page):
    """None once the patch is in sight."""
    page.wait_for_function(
        "() => { const i = document.getElementById('patch'); return i.complete && i.naturalWidth && i.style.transform; }"
    )


def shot(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def saved(page):
    """Path of what the save button brings down, by the name it has."""
    with page.expect_download() as down:
        page.get_by_role("button", name="Save").click()
    assert down.value.suggested_filename == "sheet.csv"
    return down.value.path()


def test_nothing_on_the_page_tells_name_or_score(made, opened):
    page, key = opened(READER)
    assert (
        page.locator("#whose").inner_text() == f"Sheet of {READER}"
    )  # as text: no such element, nothing to click
    assert page.locator("header b").count() == 1
    assert page.locator("#scores .on").count() == 0  # no score is chosen before the reader chose
    for place in range(len(key)):
        told = page.evaluate(SHOWN) + page.inner_text("body") + page.title()
        assert not [
            name for name in made[1]["name"] if name in told or name.rsplit("_", 1)[0] in told
        ]
        assert not {"onerror", "src=x"} & set(told.split())
        assert f"Patch {place + 1} of {len(key)}" in told
        assert page.locator("#patch").get_attribute("src") == f"images/{key['code'][place]}.png"
        assert page.locator("#scores .on").count() == 0
        page.keyboard.press("ArrowRight")
        drawn(page)


def test_read_by_key_and_click_kept_and_gathered(made, opened, tmp_path, capsys):
    page, key = opened(READER)
    shot(page, "s0_open")
    page.keyboard.press("3")
    page.get_by_role("button", name="1+", exact=True).click()
    page.get_by_role("button", name="cannot be scored").click()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("2")  # a second thought about the second patch
    page.keyboard.press("ArrowRight")
    page.get_by_label("Remark").fill('faint; "2" = edge, 3')  # keys in the remark score nothing
    page.keyboard.press("Enter")
    assert "Patch 4 of 10" in page.inner_text("header")
    assert "7 not read yet" in page.inner_text("header")
    shot(page, "s1_some")
    page.reload()
    drawn(page)
    assert "Patch 4 of 10" in page.inner_text("header")  # where the reader left off
    assert "7 not read yet" in page.inner_text("header")
    for score in "0120123":
        page.keyboard.press(score)
    assert "All are read" in page.inner_text("header")
    shot(page, "s2_all")
    folder = tmp_path / "sheets"
    shutil.copytree(made[2], folder)
    shutil.copy(saved(page), folder / sheets._folder(READER) / "sheet.csv")
    sheet = pd.read_csv(
        folder / sheets._folder(READER) / "sheet.csv", dtype=str, keep_default_na=False
    )
    assert sheet["score"].tolist() == ["3+", "2+", "", "0", "1+", "2+", "0", "1+", "2+", "3+"]
    assert sheet["remark"].tolist() == [
        "",
        "",
        "cannot be scored",
        'faint; "2" = edge, 3',
        *[""] * 6,
    ]
    ratings, problems = sheets.gather_sheets(folder)
    assert problems == []
    given = ratings.set_index(["patch", "reading"])["score"]
    for row, score in zip(key.itertuples(), [3, 2, None, 0, 1, 2, 0, 1, 2, 3], strict=True):
        assert given.get((row.patch, int(row.reading))) == score
    assert EVIL in set(ratings["patch"])
    manifest = shutil.copytree(made[0].parent, tmp_path / "data") / "manifest.csv"
    assert cli.main(["consensus", str(folder), "--into", str(manifest)]) == 0, (
        capsys.readouterr().out
    )
    merged = read_table(manifest)[0].set_index("name")
    first = key[key["reading"] == "1"].merge(sheet, on="code")
    assert merged.loc[first[first["score"] != ""]["patch"], "score"].tolist() == [
        int(word[0]) for word in first["score"] if word
    ]


def test_two_sheets_in_one_browser_do_not_share_what_was_read(made, opened, tmp_path):
    page, _ = opened("B")
    page.keyboard.press("3")
    again = sheets.write_sheets(made[1], tmp_path / "again", readers=[READER, "B"], repeats=0.25)
    page.goto((again / "B" / "sheet.html").as_uri())
    drawn(page)
    assert "10 not read yet" in page.inner_text("header")
    other = sheets.write_sheets(
        made[1].iloc[1:], tmp_path / "other", readers=[READER, "B"], repeats=0.25
    )
    codes = [set(pd.read_csv(folder / "key.csv", dtype=str)["code"]) for folder in (made[2], other)]
    assert not codes[0] & codes[1]  # a sheet laid into the wrong folder is named, not read


def test_zoom_goes_to_the_pixel_and_the_page_fits_a_tablet(opened):
    page, _ = opened("B", 820, 1180, has_touch=True, is_mobile=True)
    shot(page, "s3_tablet")
    assert page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight"
    )
    wide = page.locator("#patch").bounding_box()["width"]
    stage = page.locator("#stage").bounding_box()
    assert wide == pytest.approx(
        min(stage["width"], stage["height"]), abs=1
    )  # the whole patch, as large as it goes
    assert page.locator("#bar").inner_text() == "20 µm"
    assert page.locator("#bar").bounding_box()["width"] == pytest.approx(
        20 / 0.5 * wide / 256, abs=1
    )
    page.touchscreen.tap(stage["x"] + 100, stage["y"] + stage["height"] / 2)
    assert page.locator("#patch").bounding_box()["width"] >= 2 * wide - 1
    shot(page, "s4_near")
    page.locator("#back").tap()
    page.get_by_role("button", name="2+").tap()
    assert page.locator("#patch").bounding_box()["width"] == pytest.approx(
        wide, abs=1
    )  # the next patch is seen whole first
    assert "9 not read yet" in page.inner_text("header")
    sizes = page.evaluate(
        "[...document.querySelectorAll('footer button, footer input')].map((n) => n.getBoundingClientRect().height)"
    )
    assert np.min(sizes) >= 44
