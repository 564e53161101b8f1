"""A project with one finished run, and new patches for it to score."""

import pytest
from examples import phantom_patch
from PIL import Image
from trained_runs import trained_study

from her2lib import files


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """(folder, run, predictions): reports, 48 patches of 8 slides, run as notebook 02 makes it."""
    folder = tmp_path_factory.mktemp("inference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "REPORTS", folder / "reports")
        patch.setattr(files, "CACHE", folder / "cache")
        run, predictions = trained_study(folder)
        yield folder, run, predictions


@pytest.fixture
def loose(tmp_path):
    """Folder with three sound images, one truncated and one that is none."""
    for i in range(3):
        Image.fromarray(phantom_patch(100 + i, score=i)).save(tmp_path / f"new{i}.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "new0.jpg").read_bytes()[:900])
    (tmp_path / "words.png").write_text("no image")
    return tmp_path
