"""The store: right pixels, decoded once, safe from a second builder, kills and full disks."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image

from her2lib.data import store
from her2lib.data.store import decode_patch, lost_patches, open_store
from her2lib.files import DataError

LINUX = sys.platform == "linux"
SETS = ("train", "train", "val", "test", "external", "")


def cohort(folder, n=6, side_px=64):
    """A table of n noisy patches with slides and mpp."""
    folder.mkdir(exist_ok=True)
    for i in range(n):
        array = np.random.default_rng(i).integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{i}.png")
    return pd.DataFrame(
        {
            "name": [f"{i}.png" for i in range(n)],
            "path": [str(folder / f"{i}.png") for i in range(n)],
            "score": [i % 4 for i in range(n)],
            "slide": [f"s{i // 2}" for i in range(n)],
            "patient": "",
            "mpp": [0.25] * n,
            "set": [SETS[i % len(SETS)] for i in range(n)],
            "he": "",
        }
    )


@pytest.fixture
def table(tmp_path):
    return cohort(tmp_path / "images")


def opened(table, tmp_path, **options):
    return open_store(
        table, **{"side_px": 32, "folder": tmp_path / "store", "progress": False} | options
    )


def left(tmp_path):
    """Names in the store's folder that are neither a finished store nor its small companions."""
    return [
        p.name for p in (tmp_path / "store").glob("*") if p.suffix not in (".npy", ".json", ".lock")
    ]


def stores(tmp_path):
    return sorted((tmp_path / "store").glob("*.npy"))


def spoil(path):
    """Make a PNG whose checksums are right and whose pixels are too few: only decoding finds it."""
    data = Path(path).read_bytes()
    body = zlib.compress(bytes(64))
    chunk = (
        len(body).to_bytes(4, "big")
        + b"IDAT"
        + body
        + zlib.crc32(b"IDAT" + body).to_bytes(4, "big")
    )
    Path(path).write_bytes(data[: data.index(b"IDAT") - 4] + chunk + data[-12:])


def test_pixels_are_pillows_and_everything_keeps_the_tables_order(table, tmp_path):
    table = table.iloc[::-1].reset_index(drop=True)
    patches = opened(table, tmp_path)
    assert patches.images.shape == (6, 3, 32, 32)
    assert patches.images.dtype == torch.uint8
    for i, path in enumerate(table.path):
        expected = np.asarray(
            Image.open(path).resize((32, 32), Image.Resampling.BICUBIC)
        ).transpose(2, 0, 1)
        np.testing.assert_array_equal(patches.images[i].numpy(), expected)
    for column in ("score", "slide", "patient", "name"):
        assert list(getattr(patches, column)) == list(table[column])
    assert list(patches.subset) == list(table["set"])


def test_the_set_is_empty_where_the_table_has_none(table, tmp_path):
    assert list(opened(table.drop(columns="set"), tmp_path).subset) == [""] * 6


def test_shrinking_is_antialiased(tmp_path):
    # A one-pixel chequerboard: without antialiasing it stays black and white.
    fine = np.indices((256, 256)).sum(0) % 2 * 255
    Image.fromarray(np.dstack([fine] * 3).astype(np.uint8)).save(tmp_path / "a.png")
    image, _ = decode_patch(tmp_path / "a.png", 64)
    assert abs(image.astype(int) - 127).max() <= 8


def test_mpp_is_of_the_stored_image(table, tmp_path):
    Image.new("RGB", (96, 128), "pink").save(table.path[0])
    table.loc[1, "mpp"] = np.nan
    patches = opened(table, tmp_path)
    assert patches.mpp[0] == pytest.approx(0.25 * 96 / 32)  # the middle square of 96 x 128 px
    assert np.isnan(patches.mpp[1])
    assert patches.mpp[2] == pytest.approx(0.25 * 64 / 32)


def test_an_oblong_patch_gives_its_middle_square(tmp_path):
    array = np.zeros((64, 128, 3), np.uint8)
    array[:, 32:96] = 200
    Image.fromarray(array).save(tmp_path / "a.png")
    image, side_px = decode_patch(tmp_path / "a.png", 64)
    assert side_px == 64
    assert (image == 200).all()


def test_the_second_opening_decodes_nothing(table, tmp_path, monkeypatch):
    first = opened(table, tmp_path)
    monkeypatch.setattr(store, "decode_patch", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(opened(table, tmp_path).images, first.images)
    assert len(stores(tmp_path)) == 1


def test_content_order_and_side_each_make_another_store(table, tmp_path):
    opened(table, tmp_path)
    opened(table, tmp_path, side_px=16)
    opened(table.iloc[[1, 0, 2, 3, 4, 5]], tmp_path)
    before = opened(table, tmp_path).images[3].clone()
    assert len(stores(tmp_path)) == 3
    shutil.copy(table.path[5], table.path[3])
    assert not torch.equal(opened(table, tmp_path).images[3], before)
    assert len(stores(tmp_path)) == 4


def test_writing_to_the_images_does_not_reach_the_file(table, tmp_path):
    patches = opened(table, tmp_path)
    before = stores(tmp_path)[0].read_bytes()
    patches.images.fill_(7)
    assert stores(tmp_path)[0].read_bytes() == before
    assert np.load(stores(tmp_path)[0]).shape == (6, 3, 32, 32)  # and NumPy reads it


@pytest.mark.skipif(not LINUX, reason="sparse files and this mapping are Linux'")
def test_a_store_may_be_larger_than_memory(tmp_path):
    size = 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with (tmp_path / "big.npy").open("wb") as out:
        out.truncate(size + store.HEADER)
    images = store._map_pixels(tmp_path / "big.npy")
    assert len(images) == size
    images[-1] = 5
    assert images[-1] == 5


def test_a_file_that_does_not_decode_stops_the_build_and_leaves_nothing(table, tmp_path):
    spoil(table.path[2])
    with pytest.raises(
        DataError, match=r"2\.png: it cannot be decoded .*1 such in all.*--skip-bad"
    ):
        opened(table, tmp_path)
    assert stores(tmp_path) == left(tmp_path) == []


def test_with_skip_bad_it_is_left_out_and_named(table, tmp_path):
    spoil(table.path[2])
    patches = opened(table, tmp_path, skip_bad=True)
    assert list(patches.name) == ["0.png", "1.png", "3.png", "4.png", "5.png"]
    assert list(patches.score) == [0, 1, 3, 0, 1]
    assert list(patches.subset) == ["train", "train", "test", "external", ""]
    assert patches.images.shape == (5, 3, 32, 32)
    np.testing.assert_array_equal(patches.images[2].numpy(), decode_patch(table.path[3], 32)[0])
    assert list(lost_patches(table, side_px=32, folder=tmp_path / "store").name) == ["2.png"]
    with pytest.raises(DataError, match="--skip-bad"):
        opened(table, tmp_path)


def test_no_patch_left_is_an_error_even_with_skip_bad(table, tmp_path):
    for path in table.path:
        spoil(path)
    with pytest.raises(DataError, match="6 such in all"):
        opened(table, tmp_path, skip_bad=True)
    with pytest.raises(DataError, match="No patch is left"):
        opened(table[:0], tmp_path)


def test_enlarging_is_told(table, tmp_path):
    with pytest.warns(UserWarning, match="6 patches have fewer than 128 px"):
        opened(table, tmp_path, side_px=128)


def test_a_file_that_cannot_be_read_during_the_build_is_not_blamed_on_the_store(
    table, tmp_path, monkeypatch
):
    def gone(path, side_px, **field):
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(store, "decode_patch", gone)
    with pytest.raises(DataError, match=r"0\.png cannot be read \(Input/output error\): mend that"):
        opened(table, tmp_path)


def test_a_file_that_went_away_is_one_sentence(table, tmp_path):
    Path(table.path[4]).unlink()
    with pytest.raises(DataError, match=r"4\.png has changed since the data were read \(missing\)"):
        opened(table, tmp_path)


def test_too_little_space_is_said_before_any_work(table, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000)
    )
    monkeypatch.setattr(store, "decode_patch", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"0\.00 GB free and the store takes"):
        opened(table, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.filterwarnings("ignore:.*file checks are not kept")
def test_a_disk_that_fills_during_the_build(table, tmp_path, monkeypatch):
    real = Path.open

    def open_on_a_full_disk(path, *args, **options):
        if path.suffix == ".part":
            path = Path("/dev/full")
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", open_on_a_full_disk)
    with pytest.raises(
        DataError, match=r"No space left on device\), nothing half-built is kept: free .* GB"
    ):
        opened(table, tmp_path)
    assert stores(tmp_path) == left(tmp_path) == []
    monkeypatch.undo()
    assert len(opened(table, tmp_path)) == 6


@pytest.mark.filterwarnings("ignore:.*file checks are not kept")
def test_a_folder_that_may_not_be_written(table, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    # Permissions do not bind root; the kernel's own tree does.
    if os.geteuid() == 0:
        folder = Path("/sys/kernel/her2-store")
    with pytest.raises(
        DataError, match=r"cannot be written to .*give a folder that you may write to"
    ):
        opened(table, tmp_path, folder=folder)


def test_a_finished_store_opens_from_a_read_only_folder(table, tmp_path, monkeypatch):
    opened(table, tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    for name in ("mkdir", "write_text", "write_bytes", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert len(opened(table, tmp_path)) == 6


def test_a_store_cut_short_by_a_power_failure_is_built_again(table, tmp_path):
    whole = opened(table, tmp_path).images.clone()
    file = stores(tmp_path)[0]
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(opened(table, tmp_path).images, whole)


@pytest.mark.parametrize("at", [0, 3, 5])
def test_an_interrupt_leaves_nothing_and_the_same_call_then_works(table, tmp_path, monkeypatch, at):
    real = store.decode_patch

    def interrupted(path, side_px, **field):
        if path == table.path[at]:
            raise KeyboardInterrupt
        return real(path, side_px, **field)

    monkeypatch.setattr(store, "decode_patch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(table, tmp_path)
    assert stores(tmp_path) == left(tmp_path) == []
    monkeypatch.setattr(store, "decode_patch", real)
    assert len(opened(table, tmp_path)) == 6


def build_slowly(table, folder, seconds, answer):
    """Another process' whole life: a store built on one thread; answers (decoded, pixel sum)."""
    # Tests that run in the background inherit that this signal is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    real = store.decode_patch
    decoded = []

    def slow(path, side_px, **field):
        time.sleep(seconds)
        decoded.append(path)
        return real(path, side_px, **field)

    store.decode_patch = slow
    patches = open_store(table, side_px=32, folder=folder, progress=False, workers=1)
    answer.put((len(decoded), int(patches.images.numpy().sum(dtype=np.int64))))


def builder(table, tmp_path, seconds):
    # Forked, as importing torch anew takes seconds; forked children stay away from torch's threads.
    method = "spawn"
    if LINUX:
        method = "fork"
    context = multiprocessing.get_context(method)
    answer = context.Queue()
    process = context.Process(
        target=build_slowly, args=(table, tmp_path / "store", seconds, answer)
    )
    process.start()
    return process, answer


def test_two_builders_at_once_decode_once_and_agree(tmp_path, capfd):
    table = cohort(tmp_path / "images", 30)
    both = [builder(table, tmp_path, 0.05) for _ in range(2)]
    decoded, sums = zip(*(answer.get(timeout=60) for _, answer in both), strict=True)
    for process, _ in both:
        process.join(30)
        assert process.exitcode == 0
    assert sorted(decoded) == [0, 30]
    assert sums[0] == sums[1] == opened(table, tmp_path).images.sum()
    assert "Another process is building" in capfd.readouterr().err
    assert left(tmp_path) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("after_seconds", [0, 0.1, 0.5])
def test_a_builder_ended_by_a_signal_harms_nothing(tmp_path, how, after_seconds):
    table = cohort(tmp_path / "images", 20)
    process, _ = builder(table, tmp_path, 0.1)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "store").glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(after_seconds)
    os.kill(process.pid, how)
    process.join(30)
    assert process.exitcode
    assert stores(tmp_path) == []
    assert how == signal.SIGKILL or left(tmp_path) == []
    assert len(opened(table, tmp_path)) == 20
    assert left(tmp_path) == []


def test_what_dead_builders_left_is_swept_and_a_living_ones_is_not(table, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "dead.part").write_bytes(b"x")
    (folder / "alive.part").write_bytes(b"x")
    with FileLock(folder / "alive.lock"):
        opened(table, tmp_path)
        assert left(tmp_path) == ["alive.part"]


def test_progress_is_shown_with_the_time_left(table, tmp_path, capsys):
    opened(table, tmp_path, progress=True)
    shown = capsys.readouterr().err
    assert "decoding to 32 px" in shown
    assert "<" in shown  # tqdm's elapsed<remaining


def test_five_thousand_patches_reopen_within_a_second(tmp_path):
    table = cohort(tmp_path / "images", 1, side_px=32)
    data = Path(table.path[0]).read_bytes()
    table = pd.concat([table] * 5000, ignore_index=True)
    table["path"] = [str(tmp_path / "images" / f"x{i}.png") for i in range(5000)]
    for i, path in enumerate(table.path):
        # A comment makes the bytes of each differ.
        text = b"tEXtid\0%d" % i
        extra = len(text[4:]).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
        Path(path).write_bytes(data[:-12] + extra + data[-12:])
    opened(table, tmp_path, side_px=8)
    best = min(_seconds(lambda: opened(table, tmp_path, side_px=8)) for _ in range(5))
    assert best < 1
    facts = json.loads(stores(tmp_path)[0].with_suffix(".json").read_text())
    assert len(facts["rows"]) == 5000


def _seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_exotic_files_are_stored_as_pixels_says(tmp_path):
    array = np.full((64, 64, 4), (200, 100, 50, 0), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array, "RGBA").save(buffer, "PNG")
    buffer.seek(0)
    image, _ = decode_patch(buffer, 32)
    assert (image == 255).all()
