"""Seconds and memory of `her2 check --tables-only` on a manifest and on folders of 100,000 rows.

    python benchmarks/tables.py [rows]

Wanted: at most 20 s and 1 GB; no image is opened. Writes a temporary folder only.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 100_000
SCORES = ("0", "1+", "2+", "3+")
PER_SLIDE = 50
MOST_SECONDS = 20
MOST_MB = 1000


def write_manifest(root, rows):
    """Path of a manifest of empty files: path, score, slide, patient, mpp, set, two readers."""
    (root / "p").mkdir()
    lines = ["path,score,slide,patient,mpp,set,rater_a,rater_b"]
    for i in range(rows):
        (root / "p" / f"{i}.png").write_bytes(b"x")
        score, slide = SCORES[i % 4], i // PER_SLIDE
        subset = ("train", "train", "val", "test")[slide % 4]
        lines.append(f"p/{i}.png,{score},s{slide},p{slide},0.25,{subset},{score},{score}")
    file = root / "manifest.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def write_folders(root, rows):
    """Path of score folders within sets, with a folder for every slide below them."""
    for i in range(rows):
        slide = i // PER_SLIDE
        subset = ("train", "train", "val", "test")[slide % 4]
        folder = root / subset / SCORES[slide // 4 % 4] / f"s{slide}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(b"x")
    return root


def measure(path):
    """(wall seconds, processor seconds, MB at most, sentence of counts) of one check."""
    # ru_maxrss of a child includes what its parent held before exec; VmHWM is the child's alone
    code = (
        "import pathlib, re, sys; from her2lib import cli;"
        f"status = cli.main(['check', {str(path)!r}, '--tables-only']);"
        "text = pathlib.Path('/proc/self/status').read_text();"
        "print('MB', int(re.search(r'VmHWM:\\s+(\\d+)', text).group(1)) / 1024);"
        "sys.exit(status)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = done.stdout.splitlines()
    counts = next(line for line in lines if " read, " in line)
    return wall, processor, float(lines[-1].split()[1]), counts


def main(rows=ROWS):
    """int exit status: 1 where more time or memory was taken than is wanted."""
    failed = False
    for name, write in (("manifest", write_manifest), ("folders", write_folders)):
        with tempfile.TemporaryDirectory() as scratch:
            wall, processor, megabytes, counts = measure(write(Path(scratch), rows))
        print(
            f"{name:9} {wall:5.1f} s ({processor:.1f} s of processor), {megabytes:.0f} MB: {counts}"
        )
        failed |= wall > MOST_SECONDS or megabytes > MOST_MB
    print(f"wanted: at most {MOST_SECONDS} s and {MOST_MB} MB")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
