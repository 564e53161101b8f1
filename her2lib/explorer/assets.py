"""The explorer's JavaScript and its style, each joined into one text; there is no build tool."""

from pathlib import Path

FOLDER = Path(__file__).parent

# The files share one scope, as if they were written one below the other: what a file uses while
# it is read (not later, when something is drawn) must stand in an earlier one.
SCRIPTS = (
    "tools.js",
    "maps.js",
    "pictures.js",
    "source.js",
    "strip.js",
    "panel.js",
    "panels.js",
    "pointer.js",
    "captions.js",
    "probabilities.js",
    "grid.js",
    "controls.js",
    "notes.js",
    "main.js",
)
STYLES = ("explorer.css", "side.css")


def read_script() -> str:
    """JavaScript of the explorer, a module whose default export is what anywidget asks for."""
    return _join(SCRIPTS)


def read_style() -> str:
    """Style sheet of the explorer."""
    return _join(STYLES)


def _join(names):
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)
