"""The store against bare Pillow on the same cores: build rate, copy against decode, memory over thousands of patches.
    python benchmarks/store.py [--patches 5000] [--side-px 224]     (about 4 minutes on 2 quiet cores)
Makes its own 1024 px PNGs from phantoms in a temporary folder. Store and peers take turns, so a busy machine slows all.
"""

import argparse
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from PIL import Image

from her2lib.data.store import RESAMPLE, open_store
from her2lib.files import usable_cores
from her2lib.phantoms import dataset

TURNS, FILES = 5, 48


def pictures(folder):
    """Table of FILES 1024 px PNGs: eight phantoms, each in several noisy versions, 2 MB on disk as BCI's are."""
    rng, rows = np.random.default_rng(0), []
    bases = [dataset.make_patch(seed, side_px=1024, truth=False).image for seed in range(8)]
    for i in range(FILES):
        noisy = np.clip(bases[i % 8] + rng.normal(0, 3, (1024, 1024, 3)), 0, 255).astype(np.uint8)
        path = folder / f"{i}.png"
        Image.fromarray(noisy).save(path)
        rows.append(
            {
                "name": path.name,
                "path": str(path),
                "score": i % 4,
                "slide": "",
                "patient": "",
                "mpp": 0.25,
            }
        )
    size = np.mean([path.stat().st_size for path in folder.glob("*.png")])
    print(f"{FILES} PNGs of 1024 px, {size / 1e6:.1f} MB each, {usable_cores()} cores")
    return pd.DataFrame(rows)


def bare(job):
    """(side_px,side_px,3) uint8: what anybody would write; no check, no store."""
    path, side_px = job
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side_px, side_px), RESAMPLE))


def rate(work, n):
    """Items a second of one call."""
    began = time.perf_counter()
    work()
    return n / (time.perf_counter() - began)


def build_rates(table, side_px, scratch):
    """Prints patches a second of the store (checks, hashes and file included) and of bare Pillow on threads and on processes."""
    jobs, seen = (
        [(path, side_px) for path in table.path],
        {"store": [], "threads": [], "processes": []},
    )
    with (
        ThreadPoolExecutor(usable_cores()) as threads,
        ProcessPoolExecutor(usable_cores()) as processes,
    ):
        list(processes.map(bare, jobs))  # processes start, files come into memory
        for turn in range(TURNS):
            works = {
                "threads": lambda: list(threads.map(bare, jobs)),
                "processes": lambda: list(processes.map(bare, jobs)),
                "store": lambda f=scratch / f"turn{turn}": open_store(
                    table, side_px=side_px, folder=f, progress=False
                ),
            }
            for name, work in works.items():
                seen[name].append(rate(work, len(jobs)))
    print(", ".join(f"{name} {median(rates):.1f} patches/s" for name, rates in seen.items()))
    for name in ("threads", "processes"):
        ratios = [own / other for own, other in zip(seen["store"], seen[name], strict=True)]
        print(
            f"store / bare {name} {median(ratios):.2f} (turns {', '.join(f'{r:.2f}' for r in ratios)}); wanted: at least 0.85"
        )


def copy_against_decode(table, side_px, scratch):
    """Prints how many times faster a patch is copied from the store into a fresh tensor than decoded from its PNG."""
    images = open_store(table, side_px=side_px, folder=scratch / "turn0", progress=False).images
    copies = [rate(lambda: [image.clone() for image in images], len(images)) for _ in range(20)]
    decodes = [
        rate(lambda: [Image.open(path).load() for path in table.path[:16]], 16) for _ in range(3)
    ]
    print(
        f"copy {1e6 / median(copies):.0f} microseconds at {side_px} px, decode {1e3 / median(decodes):.1f} ms: "
        f"{median(copies) / median(decodes):,.0f} times faster; wanted: at least 500"
    )


def own_mb():
    """Megabytes of this process that no file backs (Linux)."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )
    return int(line.split()[1]) / 1024


def memory(table, side_px, scratch, n):
    """Prints this process' own memory while a store of n patches is built and then read twice in random batches."""
    many, seen, done = (
        table.iloc[np.arange(n) % len(table)].reset_index(drop=True),
        [],
        threading.Event(),
    )
    watcher = threading.Thread(
        target=lambda: [seen.append(own_mb()) for _ in iter(lambda: done.wait(0.25), True)]
    )
    watcher.start()
    images = open_store(many, side_px=side_px, folder=scratch / "many").images
    done.set()
    watcher.join()
    tenth = max(len(seen) // 10, 1)
    print(
        f"building {n} patches: {median(seen[tenth : 2 * tenth]):.0f} MB in the second tenth of the time, "
        f"{median(seen[-tenth:]):.0f} in the last, at most {max(seen):.0f}; the store has {images.numel() / 1e6:.0f} MB"
    )
    before = own_mb()
    mean = np.mean(
        [
            images[rows].float().mean().item()
            for rows in torch.randperm(2 * n).remainder(n).split(32)
        ]
    )
    print(
        f"reading each patch twice in batches of 32: {before:.0f} MB before, {own_mb():.0f} MB after (mean of all {mean:.1f})"
    )


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--patches", type=int, default=5000)
    options.add_argument("--side-px", type=int, default=224)
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        cohort = pictures(Path(place))
        for measure in (build_rates, copy_against_decode):
            measure(cohort, options.side_px, Path(place))
        memory(cohort, options.side_px, Path(place), options.patches)
