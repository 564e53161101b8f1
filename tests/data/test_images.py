"""Each kind of stranger's image file gets a clear answer; what is accepted becomes RGB."""

import io
import json
import os
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from her2lib.data import images
from her2lib.data.images import FAULTS, map_ahead, probe_files, read_pixels
from her2lib.files import DataError


def noise(seed=0, side_px=64):
    return np.random.default_rng(seed).integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)


def saved(path, image=None, **options):
    image = image or Image.fromarray(noise())
    image.save(path, **options)
    return path


def answer(path, **options):
    return probe_files([str(path)], **options).iloc[0]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def by_hand(path, rows, *, side_px, bits=8):
    """A PNG whose header says RGB, side_px and bits, whatever its rows hold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side_px, side_px, bits, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def test_an_ordinary_patch_has_no_fault_and_keeps_its_pixels(tmp_path):
    path = saved(tmp_path / "a.png")
    facts = answer(path)
    assert (facts.fault, facts.notes, facts.side_px) == ("", [], [64, 64])
    np.testing.assert_array_equal(np.asarray(read_pixels(path)), noise())


def test_zero_bytes(tmp_path):
    (tmp_path / "a.png").touch()
    assert answer(tmp_path / "a.png").fault == "empty"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"])
@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_a_truncated_file_is_found_without_decoding_for_training(tmp_path, name, fraction):
    data = saved(tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * fraction)])
    assert answer(tmp_path / name).fault in ("damaged", "foreign")


def test_a_jpeg_with_something_after_its_end_is_whole(tmp_path):
    path = saved(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + bytes(10_000))
    assert answer(path).fault == ""


def test_a_flipped_bit_in_a_png_is_found_by_its_checksum(tmp_path):
    data = bytearray(saved(tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    assert answer(tmp_path / "a.png").fault == "damaged"


def test_what_only_decoding_finds_is_found_when_deep(tmp_path):
    path = by_hand(tmp_path / "a.png", bytes(64), side_px=64)
    assert answer(path).fault == ""
    assert answer(path, deep=True).fault == "damaged"
    with pytest.raises(OSError):  # noqa: PT011 - whatever Pillow calls it
        read_pixels(path)


@pytest.mark.parametrize(
    "content",
    [b"this is a text", b"\x00" * 4000, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a" + bytes(50)],
)
def test_what_is_no_image_is_foreign(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert answer(tmp_path / "a.png").fault == "foreign"


@pytest.mark.parametrize("side_px", [9_000, 60_000])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path, side_px):
    path = by_hand(tmp_path / "a.png", bytes(1000), side_px=side_px)
    began = time.perf_counter()
    assert answer(path, deep=True).fault == "huge"
    assert time.perf_counter() - began < 1
    with pytest.raises((DataError, Image.DecompressionBombError)):
        read_pixels(path)


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as out:
        out.truncate(images.MAX_BYTES + 1)
    assert answer(tmp_path / "a.png").fault == "huge"


def test_too_small_a_patch_is_refused(tmp_path):
    assert answer(saved(tmp_path / "a.png", Image.fromarray(noise(side_px=31)))).fault == "small"


@pytest.mark.parametrize(
    ("mode", "name", "fault"),
    [
        ("L", "a.png", "grey"),
        ("LA", "a.png", "grey"),
        ("1", "a.png", "grey"),
        ("I;16", "a.png", "grey"),
        ("CMYK", "a.jpg", "print"),
    ],
)
def test_colours_that_cannot_be_trusted_are_refused_with_a_remedy(tmp_path, mode, name, fault):
    if mode == "I;16":
        image = Image.fromarray(noise().mean(2).astype(np.uint16) * 256)
    else:
        image = Image.fromarray(noise()).convert(mode)
    path = saved(tmp_path / name, image)
    assert answer(path).fault == fault
    with pytest.raises(DataError, match="export it"):
        read_pixels(path)


def test_transparency_is_laid_on_white(tmp_path):
    array = np.dstack([noise(), np.zeros((64, 64), np.uint8)])
    array[:32, :, 3] = 255
    path = saved(tmp_path / "a.png", Image.fromarray(array, "RGBA"))
    assert answer(path).notes == ["alpha"]
    seen = np.asarray(read_pixels(path))
    np.testing.assert_array_equal(seen[:32], noise()[:32])
    assert (seen[32:] == 255).all()


def test_a_palette_is_resolved(tmp_path):
    image = Image.fromarray(noise()).quantize(16)
    path = saved(tmp_path / "a.png", image)
    assert answer(path).notes == ["palette"]
    np.testing.assert_array_equal(np.asarray(read_pixels(path)), np.asarray(image.convert("RGB")))


def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path):
    wide = (noise().astype(np.uint16) << 8) | 0x80
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    path = by_hand(tmp_path / "a.png", rows, side_px=64, bits=16)
    assert answer(path).notes == ["16-bit"]
    np.testing.assert_array_equal(np.asarray(read_pixels(path)), noise())


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_exif_turns_the_image_upright(tmp_path, name):
    # The left half is white; tag 6 means: turn a quarter clockwise, so white comes to stand on top.
    array = np.zeros((64, 96, 3), np.uint8)
    array[:, :48] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / name, Image.fromarray(array), exif=exif)
    assert answer(path).notes == ["turned"]
    seen = np.asarray(read_pixels(path)).astype(int)
    assert seen.shape == (96, 64, 3)
    assert seen[:40].min() > 250
    assert seen[56:].max() < 5


def test_several_pages_are_told(tmp_path):
    path = saved(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(noise(1))])
    assert answer(path).notes == ["pages"]


def test_missing_folder_and_device(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    facts = probe_files([str(tmp_path / name) for name in ("gone.png", "folder.png", "pipe.png")])
    assert list(facts.fault) == ["missing", "special", "special"]


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user"
)
def test_a_locked_file(tmp_path):
    saved(tmp_path / "a.png").chmod(0)
    assert answer(tmp_path / "a.png").fault == "locked"


def test_every_fault_has_a_remedy():
    assert all(
        severity in ("error", "warning") and problem and remedy
        for severity, problem, remedy in FAULTS.values()
    )


def test_results_are_kept_and_a_changed_file_is_read_again(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png")
    first = answer(path, cache=tmp_path / "cache")
    with monkeypatch.context() as m:
        m.setattr(images, "_probe_file", lambda *_: pytest.fail("read again"))
        assert answer(path, cache=tmp_path / "cache").digest == first.digest
    before = path.stat()
    # The size is the same, and the time of change is set back as rsync -t would.
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert answer(path, cache=tmp_path / "cache").digest != first.digest


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "write_text", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert answer(saved(tmp_path / "a.png"), cache=tmp_path / "cache").fault == ""


def test_what_was_read_before_an_interrupt_is_kept(tmp_path, monkeypatch):
    paths = [str(saved(tmp_path / f"{i}.png")) for i in range(40)]
    real = images._probe_file

    def facts(path, deep):
        if path == paths[30]:
            raise KeyboardInterrupt
        return real(path, deep)

    monkeypatch.setattr(images, "_probe_file", facts)
    with pytest.raises(KeyboardInterrupt):
        probe_files(paths, cache=tmp_path / "cache")
    assert len(json.loads((tmp_path / "cache" / "files.json").read_text())) == 30
    monkeypatch.setattr(images, "_probe_file", real)
    assert (probe_files(paths, cache=tmp_path / "cache").fault == "").all()


def test_ahead_keeps_order_and_never_runs_far_ahead():
    begun = []
    lock = threading.Lock()

    def work(i):
        with lock:
            begun.append(i)
        return i

    for i, result in enumerate(map_ahead(work, range(200), workers=2)):
        assert result == i
        assert len(begun) <= i + 9


def test_ahead_hands_on_errors_and_leaves_no_thread():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda i: 1 / (5 - i), range(100), workers=2))
    assert threading.active_count() == before


def test_bytes_and_paths_decode_alike(tmp_path):
    path = saved(tmp_path / "a.png")
    np.testing.assert_array_equal(
        np.asarray(read_pixels(io.BytesIO(path.read_bytes()))), np.asarray(read_pixels(path))
    )
