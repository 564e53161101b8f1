"""One call from a folder to a table and pixels in one order, and one from there to three sets."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import bci, manifest, picture, pictures

from her2lib import files
from her2lib.data import store
from her2lib.data.reading import read_patches
from her2lib.files import DataError
from her2lib.phantoms import dataset

REAL = Path(__file__).parents[3] / "shared" / "real"


def read(path, tmp_path, **options):
    options = {"side_px": 32, "cache": tmp_path / "cache", "progress": False} | options
    return read_patches(path, **options)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Folder of 48 phantoms of 12 slides, no sets given; one is blurred, as slides are."""
    folder = tmp_path_factory.mktemp("phantoms")
    dataset.write_phantoms(
        folder / "data", patches=48, slides=12, side_px=64, mpp=1.0, seed=3, progress=False
    )
    return folder / "data"


def assert_in_one_order(cohort):
    for column in ("name", "score", "slide", "patient"):
        assert list(getattr(cohort.patches, column)) == list(cohort.table[column])
    assert list(cohort.patches.subset) == list(cohort.table["set"])
    assert list(cohort.table.index) == list(range(len(cohort.patches)))


class TestReading:
    def test_row_i_of_the_table_is_patch_i(self, tmp_path):
        cohort = read(bci(tmp_path / "data"), tmp_path)
        assert cohort.patches.images.shape == (12, 3, 32, 32)
        assert cohort.patches.images.dtype == torch.uint8
        assert_in_one_order(cohort)
        assert set(cohort.patches.subset) == {"train", "test"}
        for row, image in zip(cohort.table.itertuples(), cohort.patches.images, strict=True):
            np.testing.assert_array_equal(image.numpy(), store.decode_patch(row.path, 32)[0])

    def test_the_first_error_stops_it_with_the_remedy(self, tmp_path):
        root = manifest(tmp_path / "data", "a.png,4+", "b.png,5", "c.png,0")
        sentence = r"a\.png: .*'4\+' is not a HER2 score \(2 errors in all"
        with pytest.raises(DataError, match=sentence):
            read(root, tmp_path)

    def test_with_skip_bad_errors_are_left_out_counted_and_listed(self, tmp_path):
        root = manifest(tmp_path / "data", "a.png,4+", "b.png,5", "c.png,0")
        cohort = read(root, tmp_path, skip_bad=True)
        assert list(cohort.patches.name) == ["c.png"]
        assert list(cohort.problems["file"]) == ["a.png", "b.png"]
        assert any(note.startswith("Left out for errors: 2 in all") for note in cohort.notes)
        assert_in_one_order(cohort)

    def test_what_only_decoding_finds_leaves_the_table_too(self, tmp_path, monkeypatch):
        root = bci(tmp_path / "data", he=False)
        decode = store.decode_patch

        def fail_on_one(path, *settings, **more):
            if path.endswith("00003_train_3+.png"):
                raise ValueError("broken stream")
            return decode(path, *settings, **more)

        monkeypatch.setattr(store, "decode_patch", fail_on_one)
        with pytest.raises(DataError, match="it cannot be decoded"):
            read(root, tmp_path)
        cohort = read(root, tmp_path, skip_bad=True)
        assert len(cohort.patches) == 11
        assert_in_one_order(cohort)
        lost = cohort.problems.iloc[0]
        assert (lost.severity, lost.file) == ("error", "00003_train_3+.png")
        assert "broken stream" in lost.problem
        assert lost.remedy

    def test_notes_say_what_the_data_leave_open(self, tmp_path):
        root = manifest(tmp_path / "data", "a.png,0", "b.png,", "c.png,2+")
        notes = read(root, tmp_path).notes
        assert notes[0].startswith("No slide is known for these patches")
        assert notes[1].startswith("1 patches have no score")

    def test_of_sound_data_is_said_as_what_they_were_read_and_nothing_else(
        self, phantoms, tmp_path
    ):
        cohort = read(phantoms, tmp_path, any_field=True)
        assert len(cohort.notes) == 3
        assert cohort.notes[0].startswith("Read as a BCI folder")
        assert "48 read" in cohort.notes[-1]
        assert cohort.problems.empty

    def test_what_a_user_states_is_taken_at_the_door(self, tmp_path):
        root = pictures(tmp_path / "data", "0/a.png", "3+/b.png", "negative/c.png")
        cohort = read(root, tmp_path, score_words={"negative": "0"}, mpp=0.5)
        assert list(cohort.table.score) == [0, 3, 0]
        assert (cohort.table.mpp == 0.5).all()
        with pytest.raises(ValueError, match="called 'scale'"):
            read(root, tmp_path, scale=0.5)

    def test_a_second_call_decodes_nothing(self, tmp_path, monkeypatch):
        root = bci(tmp_path / "data")
        monkeypatch.setattr(files, "CACHE", tmp_path / "project cache")
        first = read_patches(root, side_px=32, progress=False)
        assert list((tmp_path / "project cache" / "stores").glob("*.npy"))
        monkeypatch.setattr(store, "decode_patch", lambda *_: pytest.fail("decoded again"))
        again = read_patches(root, side_px=32, progress=False)
        assert torch.equal(again.patches.images, first.patches.images)

    def test_a_path_that_is_not_there(self, tmp_path):
        with pytest.raises(DataError, match=r"neither a folder nor a \.csv"):
            read(tmp_path / "gone", tmp_path)

    def test_importing_it_brings_no_torch(self):
        code = "import sys, her2lib.data.reading; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class TestSplit:
    def test_whole_slides_go_to_one_set_and_no_patch_to_two(self, phantoms, tmp_path):
        cohort = read(phantoms, tmp_path, any_field=True)
        cohort = without_sets(cohort)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parts = cohort.split(seed=0)
        names = [set(part.name) for part in parts]
        slides = [set(part.slide) for part in parts]
        assert [set(part.subset) for part in parts] == [{"train"}, {"val"}, {"test"}]
        assert sum(map(len, parts)) == len(cohort.patches) == len(set.union(*names))
        assert sum(map(len, slides)) == len(set.union(*slides))

    def test_a_seed_is_a_split_and_fractions_are_kept(self, phantoms, tmp_path):
        cohort = without_sets(read(phantoms, tmp_path, any_field=True))
        first = [list(part.name) for part in cohort.split(seed=1)]
        assert [list(part.name) for part in cohort.split(seed=1)] == first
        assert [list(part.name) for part in cohort.split(seed=2)] != first
        train, _, test = cohort.split(seed=0, val=0.1, test=0.5)
        assert len(test) == pytest.approx(24, abs=4)
        assert len(train) < 24

    def test_given_sets_stay(self, tmp_path):
        cohort = read(bci(tmp_path / "data", train=20, test=8), tmp_path)
        with pytest.warns(UserWarning, match="No slide is known"):
            train, val, test = cohort.split()
        assert set(test.name) == set(cohort.table["name"][cohort.table["set"] == "test"])
        assert len(train) + len(val) == 20

    def test_pixels_follow_their_rows(self, tmp_path):
        cohort = read(bci(tmp_path / "data", train=20, test=8), tmp_path)
        with pytest.warns(UserWarning, match="No slide is known"):
            parts = cohort.split(seed=3)
        row_of_name = {name: row for row, name in enumerate(cohort.patches.name)}
        for part in parts:
            rows = [row_of_name[name] for name in part.name]
            assert torch.equal(part.images, cohort.patches.images[rows])

    def test_given_sets_that_cut_a_slide_are_warned_of(self, tmp_path):
        rows = [f"{i}.png,{i % 4},s{i % 4},{('train', 'test')[i // 8]}" for i in range(16)]
        cohort = read(manifest(tmp_path / "d", *rows, head="path,score,slide,set"), tmp_path)
        with pytest.warns(UserWarning, match="cut through 4 patients or slides"):
            cohort.split()

    @pytest.mark.filterwarnings("ignore:No slide is known")
    def test_patches_without_a_score_and_external_ones_are_in_none(self, tmp_path):
        rows = [f"{i}.png,{i % 4}," for i in range(16)]
        rows += ["x.png,,", "e.png,2,external"]
        cohort = read(manifest(tmp_path / "data", *rows, head="path,score,set"), tmp_path)
        names = set().union(*[part.name for part in cohort.split()])
        assert len(names) == 16
        assert not names & {"x.png", "e.png"}

    def test_nothing_to_split_is_one_sentence(self, tmp_path):
        picture(tmp_path / "data" / "a.png", 0)
        cohort = read(manifest(tmp_path / "data", "a.png,"), tmp_path)
        with pytest.raises(DataError, match="No usable patch has a score"):
            cohort.split()


def test_the_real_patches(tmp_path):
    if not REAL.exists():
        pytest.skip("the real patches are not beside this project")
    cohort = read(REAL, tmp_path, side_px=64)
    assert cohort.patches.images.shape == (32, 3, 64, 64)
    assert cohort.problems.empty
    parts = cohort.split(seed=0)
    slides = [set(part.slide) for part in parts]
    assert sum(map(len, parts)) == 32
    assert sum(map(len, slides)) == len(set.union(*slides)) == 8


def without_sets(cohort):
    """Cohort as it was read, its patches free for a split."""
    return type(cohort)(cohort.table.assign(set=""), cohort.patches, [], cohort.problems)
