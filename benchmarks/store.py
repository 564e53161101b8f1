"""The store against bare Pillow on the same cores.

    python benchmarks/store.py [--patches 5000] [--side-px 224]     (about 4 minutes, 2 quiet cores)

Prints the build rate, how much faster a patch is copied than decoded, and memory over thousands of
patches. Makes its own 1024 px PNGs from phantoms in a temporary folder. Store and peers take turns,
so a busy machine slows all.
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

TURNS = 5
FILES = 48
SAMPLE_SECONDS = 0.25


def main():
    """Runs the three measurements on one table of PNGs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=5000)
    parser.add_argument("--side-px", type=int, default=224)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        table = write_pictures(scratch)
        build_rates(table, options.side_px, scratch)
        copy_against_decode(table, options.side_px, scratch)
        memory(table, options.side_px, scratch, options.patches)


def write_pictures(folder):
    """Table of FILES 1024 px PNGs: eight phantoms in several noisy versions, 2 MB as BCI's are."""
    rng = np.random.default_rng(0)
    bases = [dataset.make_patch(seed, side_px=1024, truth=False).image for seed in range(8)]
    rows = []
    for i in range(FILES):
        noise = rng.normal(0, 3, (1024, 1024, 3))
        noisy = np.clip(bases[i % 8] + noise, 0, 255).astype(np.uint8)
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


# --- rates ------------------------------------------------------------------------------------


def build_rates(table, side_px, scratch):
    """Prints patches a second of the store (checks, hashes, file included) and of bare Pillow."""
    jobs = [(path, side_px) for path in table.path]
    rates = {"store": [], "threads": [], "processes": []}
    with (
        ThreadPoolExecutor(usable_cores()) as threads,
        ProcessPoolExecutor(usable_cores()) as processes,
    ):
        # Processes start, and files come into memory.
        list(processes.map(decode_plainly, jobs))
        for turn in range(TURNS):
            folder = scratch / f"turn{turn}"
            rates["threads"].append(map_rate(threads, jobs))
            rates["processes"].append(map_rate(processes, jobs))
            began = time.perf_counter()
            open_store(table, side_px=side_px, folder=folder, progress=False)
            rates["store"].append(len(jobs) / (time.perf_counter() - began))
    print(", ".join(f"{name} {median(turns):.1f} patches/s" for name, turns in rates.items()))
    for name in ("threads", "processes"):
        ratios = np.array(rates["store"]) / np.array(rates[name])
        turns = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"store / bare {name} {median(ratios):.2f} (turns {turns}); wanted: at least 0.85")


def decode_plainly(job):
    """(side_px,side_px,3) uint8: what anybody would write; no check, no store."""
    path, side_px = job
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side_px, side_px), RESAMPLE))


def map_rate(pool, jobs):
    """float, jobs a second that a pool decodes."""
    began = time.perf_counter()
    list(pool.map(decode_plainly, jobs))
    return len(jobs) / (time.perf_counter() - began)


def copy_against_decode(table, side_px, scratch):
    """Prints how many times faster a patch is copied from the store than decoded from its PNG."""
    images = open_store(table, side_px=side_px, folder=scratch / "turn0", progress=False).images
    copies = []
    for _ in range(20):
        began = time.perf_counter()
        for image in images:
            image.clone()
        copies.append(len(images) / (time.perf_counter() - began))
    decodes = []
    for _ in range(3):
        began = time.perf_counter()
        for path in table.path[:16]:
            Image.open(path).load()
        decodes.append(16 / (time.perf_counter() - began))
    print(
        f"copy {1e6 / median(copies):.0f} microseconds at {side_px} px, "
        f"decode {1e3 / median(decodes):.1f} ms: "
        f"{median(copies) / median(decodes):,.0f} times faster; wanted: at least 500"
    )


# --- memory -----------------------------------------------------------------------------------


def memory(table, side_px, scratch, n):
    """Prints this process' memory while a store of n patches is built and then read twice."""
    many = table.iloc[np.arange(n) % len(table)].reset_index(drop=True)
    samples = []
    done = threading.Event()
    watcher = threading.Thread(target=sample_memory, args=(samples, done))
    watcher.start()
    images = open_store(many, side_px=side_px, folder=scratch / "many").images
    done.set()
    watcher.join()
    tenth = max(len(samples) // 10, 1)
    print(
        f"building {n} patches: {median(samples[tenth : 2 * tenth]):.0f} MB in the second tenth "
        f"of the time, {median(samples[-tenth:]):.0f} in the last, at most {max(samples):.0f}; "
        f"the store has {images.numel() / 1e6:.0f} MB"
    )

    before = anonymous_mb()
    means = []
    for rows in torch.randperm(2 * n).remainder(n).split(32):
        means.append(images[rows].float().mean().item())
    print(
        f"reading each patch twice in batches of 32: {before:.0f} MB before, "
        f"{anonymous_mb():.0f} MB after (mean of all {np.mean(means):.1f})"
    )


def sample_memory(samples, done):
    """Appends this process' memory to samples four times a second, until done is set."""
    while not done.wait(SAMPLE_SECONDS):
        samples.append(anonymous_mb())


def anonymous_mb():
    """float, megabytes of this process that no file backs (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("This system does not tell RssAnon: the benchmark needs Linux.")


if __name__ == "__main__":
    main()
