"""Phantoms beside real patches: contact sheets, statistics of stain and texture, speed.

    python benchmarks/phantom.py --real FOLDER --out sheet.png --ranges ranges.png --own own.jpg

The sheet holds real patches and stays with whoever has them; ranges shows their statistics only,
own holds phantoms only.
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
from her2lib.phantoms.scanner import DAB, HAEMATOXYLIN
from her2lib.phantoms.slide import draw_slide
from her2lib.scores import COLOURS, SCORES, parse_score


def main():
    """Draws what was asked for; without --ranges and --own speed, coverage and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", default=str(ROOT.parent / "shared" / "real"))
    parser.add_argument("--out", default="phantom.png")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument(
        "--ranges",
        help="draw the statistics of real patches within the phantoms' ranges, and nothing else",
    )
    parser.add_argument("--own", help="draw a sheet of phantoms alone, and nothing else")
    options = parser.parse_args()
    if options.ranges:
        figure = draw_ranges(read_real(options.real, fine=2), options.count)
        figure.savefig(options.ranges, dpi=120)
    if options.own:
        phantom_sheet().save(options.own, quality=88)
    if options.ranges or options.own:
        return
    print_speed()
    real = read_real(options.real)
    table = coverage(real, options.count)
    print(table.round(3).to_string())
    print(
        f"{(table.inside >= 0.9).sum()} of {len(table)} statistics hold at least 90 % "
        f"of the {len(real['score'])} real patches"
    )
    comparison_sheet(real).save(options.out)


def print_speed(count=10):
    """Prints phantoms a second on one core, at 1024 and 256 px."""
    for side_px in (1024, 256):
        start = time.perf_counter()
        for seed in range(count):
            dataset.make_patch(seed, side_px=side_px, score=seed % 4)
        rate = count / (time.perf_counter() - start)
        print(f"{side_px} px: {rate:.2f} patches a second on one core, with truth")


# --- statistics ----------------------------------------------------------------------------------


def statistics(image):
    """{name: value} of an (H,W,3) uint8 patch; no statistic knows a score."""
    image = image.astype(np.float32)
    light = image.mean(2)
    glass = np.percentile(ndimage.uniform_filter(image, (8, 8, 0)), 98, axis=(0, 1))
    density = -np.log10(np.clip(image, 1, 255) / glass)
    residual = np.cross(HAEMATOXYLIN, DAB)
    # (3,H*W) haematoxylin, DAB, residual
    stains = np.linalg.solve(np.array([HAEMATOXYLIN, DAB, residual]).T, density.reshape(-1, 3).T)
    blue, brown = stains[:2]
    fine = ndimage.gaussian_filter(light, 1)
    smooth = ndimage.gaussian_filter(light, 2)
    coarse = ndimage.zoom(ndimage.uniform_filter(light, 32), 1 / 32, order=0)
    edges = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    return {
        "light, brightest 3 %": np.percentile(light, 97),
        "light, mean": light.mean(),
        "light, darkest 1 %": np.percentile(light, 1),
        "colour, red less blue": (image[..., 0] - image[..., 2]).mean(),
        "haematoxylin, mean": blue.mean(),
        "haematoxylin, 90th": np.percentile(blue, 90),
        "haematoxylin, 99th": np.percentile(blue, 99),
        "DAB, mean": brown.mean(),
        "DAB, 90th": np.percentile(brown, 90),
        "DAB, 99th": np.percentile(brown, 99),
        "DAB, share over 0.2": (brown > 0.2).mean(),
        "residual, spread": stains[2].std(),
        "texture, finest": np.abs(light - fine).mean(),
        "texture, fine": np.abs(fine - smooth).mean(),
        "texture, nuclei": np.abs(smooth - ndimage.gaussian_filter(light, 6)).mean(),
        "texture, coarse": coarse.std(),
        "glass, share": (ndimage.gaussian_filter(density.sum(2), 4) < 0.05).mean(),
        "edges, 95th": np.percentile(edges, 95),
    }


def phantom_statistics(count, *, side_px, mpp, per_slide, workers=None):
    """(DataFrame of statistics, slide numbers) of phantoms."""
    parallel = joblib.Parallel(workers or joblib.cpu_count())
    jobs = (joblib.delayed(_measure)(seed, side_px, mpp, per_slide) for seed in range(count))
    rows = parallel(jobs)
    return pd.DataFrame([row for row, _ in rows]), [number for _, number in rows]


def coverage(real, count, *, side_px=1024, mpp=0.5, per_slide=4, workers=None):
    """DataFrame by statistic: fraction of real patches in the phantoms' 1st to 99th percentile.

    With several phantoms a slide also the between/within ratios of both.
    """
    phantoms, numbers = phantom_statistics(
        count, side_px=side_px, mpp=mpp, per_slide=per_slide, workers=workers
    )
    patches = pd.DataFrame([statistics(image) for image in real["image"]])
    low = phantoms.quantile(0.01)
    high = phantoms.quantile(0.99)
    columns = {
        "inside": ((patches >= low) & (patches <= high)).mean(),
        "low": low,
        "high": high,
        "real low": patches.min(),
        "real high": patches.max(),
    }
    if per_slide > 1:
        columns["between/within"] = spread(phantoms, numbers)
        columns["real b/w"] = spread(patches, real["slide"])
    return pd.DataFrame(columns)


def spread(table, slides):
    """Series, variance between slides over variance within slides of every statistic.

    Of ranks, so that no outlier rules.
    """
    groups = table.rank().groupby(list(slides))
    return groups.mean().var() / groups.var().mean()


def read_real(folder, *, fine=1):
    """{image, slide, score} lists of the real patches, averaged over fine x fine pixels."""
    rows = pd.read_csv(Path(folder) / "manifest.csv")
    images = [Image.open(Path(folder) / path).convert("RGB") for path in rows.path]
    return {
        "image": [np.asarray(image.reduce(fine)) for image in images],
        "slide": list(rows.slide),
        "score": [parse_score(score) for score in rows.score],
    }


# --- pictures ------------------------------------------------------------------------------------


def draw_ranges(real, count):
    """Matplotlib figure: per statistic the phantoms' 1st to 99th percentile as a bar from 0 to 1.

    Every real patch is a dot.
    """
    phantoms, _ = phantom_statistics(count, side_px=512, mpp=1.0, per_slide=4)
    patches = pd.DataFrame([statistics(image) for image in real["image"]])
    low = phantoms.quantile(0.01)
    high = phantoms.quantile(0.99)
    colours = [COLOURS[score] for score in real["score"]]
    figure, ax = plt.subplots(figsize=(9, 7), layout="constrained")
    for row, name in enumerate(phantoms):
        ax.barh(row, 1, height=0.62, color="#dddddd")
        position = (patches[name] - low[name]) / (high[name] - low[name])
        drift = np.linspace(-0.24, 0.24, len(position))
        ax.scatter(position, row + drift, s=14, c=colours, lw=0)
        within = ((position >= 0) & (position <= 1)).mean()
        ax.text(1.62, row, f"{within:.0%}", va="center", ha="right", size=10)
    _label_ranges(ax, phantoms.columns)
    return figure


def _label_ranges(ax, names):
    """Names of the statistics, both percentiles, and a legend of the scores."""
    for score, colour in enumerate(COLOURS):
        ax.scatter([], [], s=30, color=colour, label=SCORES[score])
    ax.set(
        yticks=range(len(names)),
        yticklabels=names,
        ylim=(len(names) - 0.4, -1.1),
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


def comparison_sheet(real, *, columns=4, side_px=400):
    """PIL image: per score, real patches on the left and phantoms on the right."""
    page = Image.new("RGB", ((2 * columns * side_px) + 20, 4 * side_px), "white")
    for score in range(4):
        pairs = zip(real["image"], real["score"], strict=True)
        of_score = [image for image, its_score in pairs if its_score == score]
        patches = [of_score[round(k)] for k in np.linspace(0, len(of_score) - 1, columns)]
        phantoms = _phantoms_of_score(score, columns)
        for k, image in enumerate(patches + phantoms):
            small = Image.fromarray(image).resize((side_px, side_px), Image.LANCZOS)
            gap = 20 * (k >= columns)
            page.paste(small, (k * side_px + gap, score * side_px))
    return page


def phantom_sheet(*, columns=8, side_px=256):
    """PIL image of phantoms alone, a row per score."""
    page = Image.new("RGB", (columns * side_px, 4 * side_px), "white")
    for score in range(4):
        for k, image in enumerate(_phantoms_of_score(score, columns)):
            small = Image.fromarray(image).resize((side_px, side_px), Image.LANCZOS)
            page.paste(small, (k * side_px, score * side_px))
    return page


# --- phantoms ------------------------------------------------------------------------------------


def _measure(seed, side_px, mpp, per_slide):
    """(statistics, slide number) of one phantom."""
    image, number = _phantom_of_slide(seed, side_px=side_px, mpp=mpp, per_slide=per_slide)
    return statistics(image), number


def _phantom_of_slide(seed, *, side_px=1024, mpp=0.5, per_slide=4):
    """(image, slide number) of one phantom; four of a slide lie two by two, as real patches do."""
    number, corner = divmod(seed, per_slide)
    slide = draw_slide([77, number], laboratory=number)
    block = 1 + (per_slide > 1)
    x_um, y_um = dataset.find_window([78, number], slide, side_um=block * side_px * mpp)
    at_um = (x_um + corner % 2 * side_px * mpp, y_um + corner // 2 * side_px * mpp)
    phantom = dataset.make_patch(
        [78, seed], slide=slide, side_px=side_px, mpp=mpp, truth=False, at_um=at_um
    )
    return phantom.image, number


def _phantoms_of_score(score, count):
    """Images of phantoms of one score, each of another slide and laboratory."""
    parallel = joblib.Parallel(joblib.cpu_count())
    return parallel(joblib.delayed(_phantom_of_score)(10 * score + k, score) for k in range(count))


def _phantom_of_score(number, score):
    """(1024,1024,3) uint8 of one phantom."""
    slide = draw_slide([77, number], laboratory=number, score=score)
    return dataset.make_patch([78, number], slide=slide, score=score, truth=False).image


if __name__ == "__main__":
    main()
