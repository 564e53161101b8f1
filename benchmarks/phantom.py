"""Phantoms beside real patches: a contact sheet per score, coverage and variance of stain and texture statistics, speed.

    python benchmarks/phantom.py --real FOLDER --out sheet.png --ranges ranges.png --own own.jpg

The sheet holds real patches and stays with whoever has them; ranges shows their statistics only, own holds phantoms only.
"""

import argparse
import time
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from her2lib.files import ROOT
from her2lib.phantoms import dataset
from her2lib.phantoms import slide as slide_
from her2lib.phantoms.scanner import DAB, HAEMATOXYLIN
from her2lib.scores import COLOURS, SCORES, parse_score


def statistics(image):
    """{name: value} of an (H,W,3) uint8 patch; no statistic knows a score."""
    image = image.astype(np.float32)
    light = image.mean(2)
    glass = np.percentile(ndimage.uniform_filter(image, (8, 8, 0)), 98, axis=(0, 1))
    density = -np.log10(np.clip(image, 1, 255) / glass)
    residual = np.cross(HAEMATOXYLIN, DAB)
    stains = np.linalg.solve(np.array([HAEMATOXYLIN, DAB, residual]).T, density.reshape(-1, 3).T)
    h, d = stains[0], stains[1]
    smooth = ndimage.gaussian_filter(light, 2)
    coarse = ndimage.zoom(ndimage.uniform_filter(light, 32), 1 / 32, order=0)
    return {
        "light, brightest 3 %": np.percentile(light, 97),
        "light, mean": light.mean(),
        "light, darkest 1 %": np.percentile(light, 1),
        "colour, red less blue": (image[..., 0] - image[..., 2]).mean(),
        "haematoxylin, mean": h.mean(),
        "haematoxylin, 90th": np.percentile(h, 90),
        "haematoxylin, 99th": np.percentile(h, 99),
        "DAB, mean": d.mean(),
        "DAB, 90th": np.percentile(d, 90),
        "DAB, 99th": np.percentile(d, 99),
        "DAB, share over 0.2": (d > 0.2).mean(),
        "residual, spread": stains[2].std(),
        "texture, finest": np.abs(light - ndimage.gaussian_filter(light, 1)).mean(),
        "texture, fine": np.abs(ndimage.gaussian_filter(light, 1) - smooth).mean(),
        "texture, nuclei": np.abs(smooth - ndimage.gaussian_filter(light, 6)).mean(),
        "texture, coarse": coarse.std(),
        "glass, share": (ndimage.gaussian_filter(density.sum(2), 4) < 0.05).mean(),
        "edges, 95th": np.percentile(
            np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)), 95
        ),
    }


def made(seed, *, side_px=1024, mpp=0.5, a_slide=4):
    """(image, slide number) of one phantom; four of a slide lie two by two, as the real patches do."""
    number, corner = divmod(seed, a_slide)
    slide = slide_.slide([77, number], laboratory=number)
    at = dataset.find_window([78, number], slide, side_um=(1 + (a_slide > 1)) * side_px * mpp)
    at_um = (at[0] + corner % 2 * side_px * mpp, at[1] + corner // 2 * side_px * mpp)
    return dataset.make_patch(
        [78, seed], slide=slide, side_px=side_px, mpp=mpp, truth=False, at_um=at_um
    ).image, number


def coverage(real, count, *, side_px=1024, mpp=0.5, a_slide=4, workers=None):
    """DataFrame by statistic: share of real images in the phantoms' 1st to 99th percentile; both between/within ratios."""
    run = joblib.Parallel(workers or joblib.cpu_count())
    found = run(joblib.delayed(_measured)(seed, side_px, mpp, a_slide) for seed in range(count))
    ours = pd.DataFrame([row for row, _ in found])
    theirs = pd.DataFrame([statistics(image) for image in real["image"]])
    low, high = ours.quantile(0.01), ours.quantile(0.99)
    inside = (theirs >= low) & (theirs <= high)
    table = {
        "inside": inside.mean(),
        "low": low,
        "high": high,
        "real low": theirs.min(),
        "real high": theirs.max(),
    }
    if a_slide > 1:
        table |= {
            "between/within": spread(ours, [s for _, s in found]),
            "real b/w": spread(theirs, real["slide"]),
        }
    return pd.DataFrame(table)


def spread(table, slides):
    """Series, variance between slides over variance within slides of every statistic (ranks, so that no outlier rules)."""
    groups = table.rank().groupby(list(slides))
    return groups.mean().var() / groups.var().mean()


def _measured(seed, side_px, mpp, a_slide):
    image, number = made(seed, side_px=side_px, mpp=mpp, a_slide=a_slide)
    return statistics(image), number


def read_real(folder, *, fine=1):
    """{image, slide, score} lists of the real patches, averaged over fine x fine pixels."""
    rows = pd.read_csv(Path(folder) / "manifest.csv")
    images = [Image.open(Path(folder) / p).convert("RGB") for p in rows.path]
    return dict(
        image=[np.asarray(i.reduce(fine)) for i in images],
        slide=list(rows.slide),
        score=[parse_score(s) for s in rows.score],
    )


def sheet(real, *, columns=4, side_px=400):
    """PIL image: per score, real patches on the left and phantoms on the right."""
    page = Image.new("RGB", ((2 * columns * side_px) + 20, 4 * side_px), "white")
    for score in range(4):
        held = [i for i, s in zip(real["image"], real["score"], strict=True) if s == score]
        run = joblib.Parallel(joblib.cpu_count())
        ours = run(joblib.delayed(_one)(10 * score + k, score) for k in range(columns))
        theirs = [held[round(k)] for k in np.linspace(0, len(held) - 1, columns)]
        for k, image in enumerate(theirs + ours):
            small = Image.fromarray(image).resize((side_px, side_px), Image.LANCZOS)
            page.paste(small, (k * side_px + 20 * (k >= columns), score * side_px))
    return page


def _one(number, score):
    slide = slide_.slide([77, number], laboratory=number, score=score)
    return dataset.make_patch([78, number], slide=slide, score=score, truth=False).image


def ranges(real, count):
    """Matplotlib figure: per statistic the phantoms' 1st to 99th percentile as a bar from 0 to 1, every real patch as a dot."""
    found = joblib.Parallel(joblib.cpu_count())(
        joblib.delayed(_measured)(seed, 512, 1.0, 4) for seed in range(count)
    )
    ours = pd.DataFrame([row for row, _ in found])
    theirs = pd.DataFrame([statistics(image) for image in real["image"]])
    low, high = ours.quantile(0.01), ours.quantile(0.99)
    figure, ax = plt.subplots(figsize=(9, 7), layout="constrained")
    for row, name in enumerate(ours):
        ax.barh(row, 1, height=0.62, color="#dddddd")
        at = (theirs[name] - low[name]) / (high[name] - low[name])
        drift = np.linspace(-0.24, 0.24, len(at))
        ax.scatter(at, row + drift, s=14, c=[COLOURS[score] for score in real["score"]], lw=0)
        ax.text(
            1.62, row, f"{((at >= 0) & (at <= 1)).mean():.0%}", va="center", ha="right", size=10
        )
    for score, colour in enumerate(COLOURS):
        ax.scatter([], [], s=30, color=colour, label=SCORES[score])
    ax.set(
        yticks=range(ours.shape[1]),
        yticklabels=ours.columns,
        ylim=(ours.shape[1] - 0.4, -1.1),
        xlim=(-0.35, 1.65),
        xticks=[0, 1],
        xticklabels=["1st", "99th percentile of the phantoms"],
    )
    ax.text(1.62, -0.8, "within", ha="right", size=10)
    ax.legend(
        title="real patches, score",
        loc="lower center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=4,
        frameon=False,
    )
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def own(*, columns=8, side_px=256):
    """PIL image of phantoms alone, a row per score."""
    page = Image.new("RGB", (columns * side_px, 4 * side_px), "white")
    ours = joblib.Parallel(joblib.cpu_count())(
        joblib.delayed(_one)(10 * score + k, score) for score in range(4) for k in range(columns)
    )
    for k, image in enumerate(ours):
        small = Image.fromarray(image).resize((side_px, side_px), Image.LANCZOS)
        page.paste(small, (k % columns * side_px, k // columns * side_px))
    return page


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--real", default=str(ROOT.parent / "shared" / "real"))
    words.add_argument("--out", default="phantom.png")
    words.add_argument("--count", type=int, default=200)
    words.add_argument(
        "--ranges",
        help="draw the statistics of real patches within the phantoms' ranges, and nothing else",
    )
    words.add_argument("--own", help="draw a sheet of phantoms alone, and nothing else")
    asked = words.parse_args()
    if asked.ranges:
        ranges(read_real(asked.real, fine=2), asked.count).savefig(asked.ranges, dpi=120)
    if asked.own:
        own().save(asked.own, quality=88)
    if asked.ranges or asked.own:
        return
    for side_px in (1024, 256):
        start, many = time.perf_counter(), 10
        for seed in range(many):
            dataset.make_patch(seed, side_px=side_px, score=seed % 4)
        print(
            f"{side_px} px: {many / (time.perf_counter() - start):.2f} patches a second on one core, with truth"
        )
    real = read_real(asked.real)
    table = coverage(real, asked.count)
    print(table.round(3).to_string())
    print(
        f"{(table.inside >= 0.9).sum()} of {len(table)} statistics hold at least 90 % of the {len(real['score'])} real patches"
    )
    sheet(real).save(asked.out)


if __name__ == "__main__":
    main()
