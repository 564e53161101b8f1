"""A page under test: what it draws, says and asks for, and what a hand does with it."""

import base64
import io
import os
import time

import numpy as np
from PIL import Image

# A folder that keeps a screenshot of each state, for a person to look at.
SHOTS = os.environ.get("HER2_SHOTS")

EXPLORER = "document.querySelector('#her2-explorer, .jp-OutputArea .her2').explorer"

PIXELS = """([root, k]) =>
  document.querySelector(root).querySelectorAll("canvas.view")[k].toDataURL()"""

TELL_INPUT = """(input, value) => {
  input.value = value;
  const kind = input.tagName === "SELECT" ? "change" : "input";
  input.dispatchEvent(new Event(kind, { bubbles: true }));
}"""


class Watched:
    """A page with its errors and requests, and words for what a test does with it."""

    def __init__(self, page, root):
        self.page = page
        self.root = root
        self.errors = []
        self.requests = []
        page.on("console", self._hear_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._hear_dialog)
        page.on("request", lambda request: self.requests.append(request.url))

    # --- what it shows ---------------------------------------------------------------------------

    def locator(self, selector, **options):
        return self.page.locator(f"{self.root} {selector}", **options)

    def text(self, selector):
        return self.locator(selector).inner_text()

    def caption(self, k):
        return self.locator(".panel figcaption").nth(k).inner_text()

    def ask(self, expression):
        """What a JavaScript expression gives; `explorer` in it is the explorer."""
        return self.page.evaluate(
            f"(() => {{ const explorer = {EXPLORER}; return {expression}; }})()"
        )

    def state(self, key):
        return self.ask(f"explorer.get({key!r})")

    def wait_for(self, expression, **options):
        """Waits until a JavaScript expression is true; `explorer` in it is the explorer."""
        code = f"() => {{ const explorer = {EXPLORER}; return {expression}; }}"
        self.page.wait_for_function(code, **options)

    def pixels(self, k):
        """(H,W,3) uint8 of panel k as it is drawn."""
        url = self.page.evaluate(PIXELS, [self.root, k])
        image = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
        return np.asarray(image.convert("RGB"))

    def until_other(self, k, before, seconds=20):
        """(H,W,3) pixels of panel k once they are others than before and at rest."""
        end = time.monotonic() + seconds
        last = before
        while time.monotonic() < end:
            now = self.pixels(k)
            if not np.array_equal(now, before) and np.array_equal(now, last):
                return now
            last = now
            time.sleep(0.03)
        raise AssertionError(f"panel {k} did not change, or not come to rest")

    def changed(self, k, act, *args, **named):
        """(before, after) pixels of panel k around an action."""
        before = self.pixels(k)
        act(*args, **named)
        return before, self.until_other(k, before)

    def shot(self, name):
        if SHOTS:
            self.page.screenshot(path=f"{SHOTS}/{name}.png")

    # --- what a hand does ------------------------------------------------------------------------

    def field(self, key):
        """Locator of a control."""
        return self.locator(f".field.{key} input, .field.{key} select")

    def select(self, key, value):
        self.field(key).select_option(value)

    def choose_network(self, name):
        """Chooses the network whose name begins so: a run that learnt nothing carries a mark."""
        menu = self.field("network")
        labels = menu.locator("option").all_inner_texts()
        menu.select_option(label=next(label for label in labels if label.startswith(name)))

    def slide(self, key, value):
        """Moves a slider as a hand does: the value, then the input event."""
        self.field(key).evaluate(TELL_INPUT, str(value))

    def turn(self, key, presses):
        """Moves a slider by keys, as a hand on the keyboard does."""
        for press in presses:
            self.field(key).press(press)

    def _hear_console(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _hear_dialog(self, dialog):
        self.errors.append(f"dialog {dialog.message}")
        dialog.dismiss()


def open_page(context, file, name):
    """Watched explorer.html once both its panels are drawn."""
    watched = Watched(context.new_page(), "#her2-explorer")
    watched.page.goto(file.as_uri())
    wait_until_drawn(watched, name)
    return watched


def wait_until_drawn(watched, name):
    watched.page.wait_for_function(
        """() => {
          const views = document.getElementById("her2-explorer")?.explorer?.panels.views ?? [];
          return views.length && views.every((view) => view.picture) && views[1].map;
        }"""
    )
    watched.page.wait_for_timeout(120)
    watched.shot(name)


def colourful(image):
    """float, how far the mean pixel is from grey."""
    rgb = image[..., :3].astype(int)
    return float((rgb.max(-1) - rgb.min(-1)).mean())
