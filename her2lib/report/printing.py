"""report.html on paper: a PDF by whatever Chromium there is, or a sentence on how to make it."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
BY_HAND = "open report.html in a browser, choose Print and save as PDF"
PRINT_SECONDS = 180  # a report of 8 MB takes about 5 s
QUIET = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-pdf-header-footer",
)


def print_pdf(page):
    """str, "" after writing report.pdf beside a page, or the sentence why there is none."""
    page = Path(page)
    target = page.with_suffix(".pdf")
    browser = find_browser()
    if not browser:
        return f"There is no report.pdf, because no Chromium is on the PATH: {BY_HAND}."
    with tempfile.TemporaryDirectory(
        dir=page.parent, prefix="print-", ignore_cleanup_errors=True
    ) as folder:
        printed = Path(folder) / "report.pdf"
        paper = _without_links(page, Path(folder) / "report.html")
        problem = _run_browser(browser, paper, printed, profile=f"{folder}/profile")
        if printed.is_file() and printed.read_bytes()[:5] == b"%PDF-":
            os.replace(printed, target)
            return ""
    target.unlink(missing_ok=True)  # an old one would show other numbers
    return f"There is no report.pdf, because {Path(browser).name} {problem}: {BY_HAND}."


def find_browser():
    """str, the first of BROWSERS on the PATH; None when there is none."""
    for name in BROWSERS:
        program = shutil.which(name)
        if program:
            return program
    return None


def _without_links(page, paper):
    """Path of the page as it is printed: a link to a neighbour would become this machine's path."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<a href="(?!#)[^"]*">(.*?)</a>', r"\1", text)
    paper.write_text(text, encoding="utf-8")
    return paper


def _run_browser(browser, paper, printed, *, profile):
    """str, how the browser ended: "ended with 0", "failed (TimeoutExpired)"."""
    command = [browser, *QUIET, f"--user-data-dir={profile}", f"--print-to-pdf={printed}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium refuses its sandbox to root
    try:
        done = subprocess.run(
            [*command, paper.as_uri()],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PRINT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"failed ({type(error).__name__})"
    return f"ended with {done.returncode}"
