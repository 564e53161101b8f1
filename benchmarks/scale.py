"""How well is the scale of a picture told? On phantoms of unseen laboratories, and on real patches.

    python benchmarks/scale.py [--fit] [--folder FOLDER]

Paints 480 phantoms (a minute) and prints figures. With --fit it paints 5,600 phantoms of other
laboratories first (about 20 minutes on two cores), fits scale.TABLE to them and prints it as the
module holds it. What was painted stays in the folder and is used again.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LinearRegression, RidgeCV

from her2lib.data import blob_filters, scale
from her2lib.phantoms import dataset, slide

# (first seed, phantoms, finest and coarsest mpp); their laboratories are 0 to 59.
TRAINING = ((10_000, 1600, 0.2, 1.3), (200_000, 4000, 0.15, 2.4))
TRAINING_PX = 320
# 60 groups of 8, each of one laboratory (400 to 429), four slides, one scale of 0.25 to 1.0 um.
# Laboratories 200 to 229 were looked at while features and constants were chosen.
TEST_GROUPS = 60
TEST_PX = 256
# Of the copies that TABLE is fitted to.
COPY_UM = (0.3, 2.4)
SIDE_COLUMNS = ("reduced", "side_px", "picture", "mpp", "laboratory")
PENALTIES = np.logspace(0, 5, 12)
ROOT = Path(__file__).parents[1]
FOLDER = Path(tempfile.gettempdir()) / "her2_scale"


# --- phantoms ------------------------------------------------------------------------------------


def paint(seed, laboratory, mpp, *, side_px, slide_seed):
    """((H,W,3) uint8 phantom, its mpp): painted at another scale, resized, saved as people do."""
    rng = np.random.default_rng([seed, 77])
    if isinstance(mpp, tuple):
        mpp = np.exp(rng.uniform(*np.log(mpp)))
    factor = 1.0
    if rng.uniform() < 0.6:
        factor = np.exp(rng.uniform(np.log(0.6), np.log(2.5)))
    painted_mpp = max(mpp / factor, 0.2)
    painted_px = round(side_px * mpp / painted_mpp)
    image = _paint_some_window(seed, laboratory, slide_seed, side_px=painted_px, mpp=painted_mpp)
    if painted_px != side_px:
        filters = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)
        resized = Image.fromarray(image).resize((side_px, side_px), filters[rng.integers(3)])
        image = np.asarray(resized)
    if rng.uniform() < 0.7:
        image = through_jpeg(image, int(rng.integers(60, 96)))
    return image, painted_mpp * painted_px / side_px


def _paint_some_window(seed, laboratory, slide_seed, **size):
    """(H,W,3) uint8 of a slide; another slide where this one does not show its score."""
    plan = slide.draw_slide([slide_seed, 5], laboratory=laboratory)
    for attempt in range(20):
        try:
            return dataset.make_patch([seed, attempt], slide=plan, truth=False, **size).image
        except LookupError:
            plan = slide.draw_slide([slide_seed, 5, attempt], laboratory=laboratory)
    raise RuntimeError(f"No window of 20 slides shows its score: seed {seed}.")


def through_jpeg(image, quality):
    """(H,W,3) uint8 as it comes back from a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def training_set(folder, first, count, ends):
    """(images (N,320,320,3) uint8, mpp (N,), laboratory (N,)) painted once into folder."""
    jobs = []
    for seed in range(first, first + count):
        laboratory = (seed - first) % 60
        jobs.append((seed, laboratory, ends, TRAINING_PX, seed))
    return _painted(folder / f"train{first}.npz", jobs)


def test_set(folder):
    """(images (480,256,256,3) uint8, mpp, laboratory) of laboratories that no fit saw."""
    rng = np.random.default_rng(4)
    jobs = []
    for group in range(TEST_GROUPS):
        mpp = float(np.exp(rng.uniform(*np.log((0.25, 1.0)))))
        for member in range(8):
            slide_seed = 490_000 + group * 4 + member // 2
            seed = 450_000 + group * 8 + member
            jobs.append((seed, 400 + group % 30, mpp, TEST_PX, slide_seed))
    return _painted(folder / "test400.npz", jobs)


def _painted(file, jobs):
    """(images, mpp, laboratory) of jobs, from the file or painted into it."""
    if not file.exists():
        tasks = []
        for seed, laboratory, mpp, side_px, slide_seed in jobs:
            task = joblib.delayed(paint)(
                seed, laboratory, mpp, side_px=side_px, slide_seed=slide_seed
            )
            tasks.append(task)
        painted = joblib.Parallel(-1, batch_size=4)(tasks)
        images = np.stack([image for image, _ in painted])
        np.savez(file, images=images, mpp=[mpp for _, mpp in painted])
    held = np.load(file)
    return held["images"], held["mpp"], np.array([job[1] for job in jobs])


def disturb(image, rng, *, side_px, spoil):
    """(3,side_px,side_px) uint8 crop, at times blurred, noisy or saved once more."""
    y, x = rng.integers(0, len(image) - side_px + 1, 2)
    image = image[y : y + side_px, x : x + side_px]
    if spoil and rng.uniform() < 0.3:
        sigma = rng.uniform(0.3, 1.0)
        blurred = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0))
        image = blurred.round().astype(np.uint8)
    if spoil and rng.uniform() < 0.2:
        noise = rng.normal(0, rng.uniform(0.5, 4), image.shape[:2])[..., None]
        image = (image + noise).clip(0, 255).round().astype(np.uint8)
    if spoil and rng.uniform() < 0.3:
        image = through_jpeg(image, int(rng.integers(50, 95)))
    return np.ascontiguousarray(image.transpose(2, 0, 1))


# --- the fit -------------------------------------------------------------------------------------


def training_copies(folder):
    """DataFrame of copy_features of all training phantoms, with picture, mpp and laboratory."""
    file = folder / "copies.pkl"
    if file.exists():
        return pd.read_pickle(file)
    parts = []
    for first, count, *ends in TRAINING:
        images, mpps, laboratories = training_set(folder, first, count, tuple(ends))
        # each phantom twice, cut and spoilt in two ways
        for view in (0, 1):
            rng = np.random.default_rng(view)
            for row, image in enumerate(images):
                side_px = int(rng.choice([160, 224, 256, 320]))
                picture = disturb(image, rng, side_px=side_px, spoil=True)
                copies = blob_filters.copy_features(picture)
                about = {"picture": f"{first + row}/{view}", "mpp": mpps[row]}
                parts.append(copies.assign(**about, laboratory=laboratories[row]))
    copies = pd.concat(parts, ignore_index=True)
    copies.to_pickle(file)
    return copies


def fit(copies):
    """dict TABLE, FIRST, BEND fitted to the copies of about COPY_UM a pixel."""
    target = np.log(copies.mpp * copies.reduced)
    usable = target.between(*np.log(COPY_UM)).to_numpy()
    target = target[usable].to_numpy()
    names = [name for name in copies if name not in SIDE_COLUMNS]
    values = copies.loc[usable, names]
    centre, spread = values.mean(), values.std()
    standard = ((values - centre) / spread).clip(-4, 4).to_numpy()
    first = RidgeCV(PENALTIES).fit(standard, target)
    about = first.predict(standard)[:, None]
    again = RidgeCV(PENALTIES).fit(
        np.hstack([standard, standard * about, about, about**2, about**3]), target
    )
    n = len(names)
    columns = (centre, spread, first.coef_, again.coef_[:n], again.coef_[n : 2 * n])
    table = {}
    for name, row in zip(names, np.column_stack(columns), strict=True):
        table[name] = tuple(float(f"{value:.4g}") for value in row)
    bend = (again.intercept_, *again.coef_[2 * n :])
    return {
        "TABLE": table,
        "FIRST": float(f"{first.intercept_:.4g}"),
        "BEND": tuple(float(f"{value:.4g}") for value in bend),
    }


def fit_doubt(copies):
    """(4,) DOUBT, from the errors of fits that did not see the laboratory (five parts of them)."""
    terms, errors = [], []
    for part in range(5):
        is_out = copies.laboratory % 5 == part
        use(fit(copies[~is_out]))
        for _, picture in copies[is_out].groupby("picture", sort=False):
            mpp = picture.mpp.iloc[0]
            if 0.2 < mpp < 1.5:
                reading = scale.read_copies(picture)
                terms.append(scale.doubt_terms(reading))
                errors.append(abs(reading["log_mpp"] - np.log(mpp)))
    terms, errors = np.array(terms), np.array(errors)
    # the small constant keeps lucky hits from ruling the fit
    line = LinearRegression(fit_intercept=False).fit(terms, np.log(errors + 0.03))
    factor = np.quantile(errors / np.exp(line.predict(terms)), 0.9)
    doubt = line.coef_ + np.array([np.log(factor), 0, 0, 0])
    print(f"# unseen laboratories of the fit: {figures(errors)}")
    return tuple(float(f"{value:.4g}") for value in doubt)


def use(values):
    """Sets the constants of scale to fitted ones."""
    for name, value in values.items():
        setattr(scale, name, value)


def print_fit(values, n):
    """Prints fitted constants as scale holds them."""
    print(f"# Fitted by benchmarks/scale.py --fit to {n} phantoms, {time.strftime('%Y-%m-%d')}.")
    for name, value in values.items():
        if name != "TABLE":
            print(f"{name} = {value}")
    print("TABLE = {")
    for name, row in values["TABLE"].items():
        print(f'    "{name}": {row},')
    print("}")


# --- figures -------------------------------------------------------------------------------------


def figures(errors):
    """str, of absolute errors of the natural logarithm of mpp; NaN where refused."""
    errors = np.asarray(errors, float)
    answered = errors[np.isfinite(errors)]
    ratio = np.expm1(answered)
    return (
        f"median error {np.median(ratio):5.1%}, 90 % within {np.quantile(ratio, 0.9):5.1%}, "
        f"{(ratio <= 0.3).mean():5.1%} within 30 %, refused {1 - len(answered) / len(errors):5.1%} "
        f"of {len(errors)}"
    )


def measure_phantoms(folder):
    """Prints how well phantoms of unseen laboratories are told, alone and in sets of 8."""
    images, mpps, _ = test_set(folder)
    for name, side_px, spoil in (
        ("256 px", 256, False),
        ("256 px, spoilt", 256, True),
        ("128 px", 128, False),
    ):
        rng = np.random.default_rng(9)
        pictures = [disturb(image, rng, side_px=side_px, spoil=spoil) for image in images]
        table = scale.estimate_mpp(np.stack(pictures))
        error = np.log(table.mpp.to_numpy() / mpps)
        groups = [scale.pool_mpp(part) for _, part in table.groupby(np.arange(len(table)) // 8)]
        of_sets = pd.DataFrame([vars(group) for group in groups])
        print(f"{name:15s} {figures(abs(error))}")
        print(f"{'  intervals':15s} {covered(table, mpps)}, median bias {np.nanmedian(error):+.3f}")
        print(f"{'  sets of 8':15s} {figures(abs(np.log(of_sets.mpp / mpps[::8])))}")
        print(f"{'  intervals':15s} {covered(of_sets, mpps[::8])}")
        if side_px == 256 and not spoil:
            print_bands(error, mpps)
            every = [scale.read_copies(blob_filters.copy_features(one)) for one in pictures]
            logs = np.array([reading["log_mpp"] for reading in every])
            print(f"  were none refused: {figures(abs(logs - np.log(mpps)))}")


def covered(table, mpps):
    """str, how many of the intervals that are answered hold the truth."""
    inside = table.low.le(mpps) & table.high.ge(mpps)
    return f"{inside[table.mpp.notna()].mean():.1%} hold the truth"


def print_bands(error, mpps):
    """Prints figures of four bands of scale."""
    for low, high in ((0.25, 0.35), (0.35, 0.5), (0.5, 0.7), (0.7, 1.01)):
        band = (mpps >= low) & (mpps < high)
        bias = np.nanmedian(error[band])
        print(f"  {low} to {high} um: {figures(abs(error[band]))}, bias {bias:+.3f}")


def measure_real():
    """Prints what real HER2 patches come to, and how it follows a resizing of them."""
    files = sorted((ROOT.parent / "shared" / "real" / "patches").glob("*.jpg"))
    if not files:
        print("real patches: absent")
        return
    pictures = [Image.open(file) for file in files]
    straight = None
    for factor in (1.0, 2.0, 1.41, 0.71, 0.5):
        arrays = []
        for picture in pictures:
            side = round(picture.width * factor)
            resized = picture.resize((side, side), Image.Resampling.LANCZOS)
            arrays.append(np.asarray(resized).transpose(2, 0, 1))
        table = scale.estimate_mpp(np.stack(arrays))
        if straight is None:
            straight = table.assign(core=[file.stem.split("_")[0] for file in files])
        follows = np.nanmedian(np.log(table.mpp * factor / straight.mpp))
        pooled = scale.pool_mpp(table)
        print(
            f"real patches x {factor}: {pooled.sentence()} "
            f"spread {pooled.spread:.2f}, off its resizing {np.expm1(follows):+.1%}"
        )
    print(straight.groupby("core").agg({"mpp": ["median", "min", "max", "count"]}).round(2))


def measure_speed():
    """Prints the processor time of one picture of 1024 px."""
    image = np.random.default_rng(0).integers(150, 250, (1, 3, 1024, 1024)).astype(np.uint8)
    scale.estimate_mpp(image)
    start = time.process_time()
    for _ in range(10):
        scale.estimate_mpp(image)
    print(f"1024 px: {(time.process_time() - start) * 100:.0f} ms of one core a picture")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true", help="fit scale.TABLE first, and print it")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.fit:
        copies = training_copies(options.folder)
        doubt = fit_doubt(copies)
        values = fit(copies) | {"DOUBT": doubt}
        use(values)
        print_fit(values, sum(count for _, count, *_ in TRAINING))
    measure_phantoms(options.folder)
    measure_real()
    measure_speed()


if __name__ == "__main__":
    main()
