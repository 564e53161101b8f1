"""Micrometres a pixel, estimated from the picture: the size of nuclei, of membranes, of the gaps.

For pictures that state no scale. Filters look at halved copies of a picture (blob_filters), TABLE
reads a scale off each, and the copy that comes to about 1 um a pixel counts most. No torch.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from her2lib.data.blob_filters import copy_features
from her2lib.intake.layout_sentences import count_text

# Nuclei are 6 to 10 px wide there, and little is left of a scanner's sharpening and of JPEG.
# Phantoms within 30 %: 90 of 100, and 86 where 0.8 um counted most, 88 where 1.2 um did.
BEST_UM = 1.0
# Width of that preference, in natural logarithms. A wider one tells phantoms a little better (0.25:
# 89 of 100 within 30 %, 0.45: 92), and follows a halving of real patches less (off by 9 and 22 %).
PREFERENCE = 0.3

# Shorter sides show too few nuclei: 96 px at 0.25 um a pixel show about six.
LEAST_PX = 96
# TABLE was fitted to copies of 0.3 to 2.4 um, so a picture is between these.
FINEST_UM = 0.15
COARSEST_UM = 1.5
# Spans of optical density below this are noise on glass; 99 % of phantoms have 0.026 or more.
LEAST_STAIN = 0.01
# Mean square of the features, in their spreads: phantoms 0.6 (99 %: 7.5), 32 real patches 0.5 to
# 2.4, noise, plain colours and chequers 9 to 280.
MOST_STRANGE = 6.0
# Halving a picture must double its reading, or nearly: 1 here. Real patches rise by 0.09 and more,
# phantoms by 0.11 (98 of 100); of 3 um a pixel, where blots pass for nuclei, by -0.7 to 0.1.
LEAST_RISE = 0.05
# Of the natural logarithm; a wider interval (a factor of 1.8 either way) is no answer.
WIDEST = 0.6
# Half a 90 % interval of what pictures of one origin get wrong together. Sets of 8 phantoms: 0.11.
# Real tissue is no phantom: of 32 real patches red cells (6 to 7 um) are about 10 px wide, which
# says 0.6 to 0.7 um a pixel where the estimate is 0.52.
ORIGIN = 0.2
# Of pictures of one scale, standard deviation of the natural logarithm; of several it is larger.
SPREAD = 0.16
MIXED = 0.35
# Of a set, this fraction of its pictures must answer: 96 % of phantoms do, 32 of 32 real patches.
LEAST_ANSWERED = 0.5

# TABLE, FIRST, BEND and DOUBT are a fitted result, of benchmarks/scale.py --fit on 2026-11-25, from
# 5,600 phantoms of 60 laboratories, 0.15 to 2.4 um a pixel, resized, blurred, saved as JPEG. Of 480
# of 30 more (0.25 to 1.0 um, 256 px) the median error is 10 %, and 91 % lie within 30 %.
FIRST = -0.09875
# Of the second reading: constant and powers of the first.
BEND = (-0.003962, 1.106, -0.1144, -0.1712)
# Natural logarithm of half a 90 % interval: constant, disagreement, log strange, log side in px.
DOUBT = (-0.4355, 2.238, 0.09557, -0.2211)
# Feature of blob_filters: centre, spread, weight in the first and second reading, and its turn.
TABLE = {
    "ink": (0.01069, 0.057, -0.05435, 0.01198, -0.03052),
    "h span": (-2.018, 0.6508, -0.05613, -0.01034, 0.01453),
    "h mean": (0.2996, 0.06589, 0.03906, -0.008073, -0.0659),
    "h skew": (1.369, 0.619, 0.04627, 0.003167, -0.04706),
    "h0n blob": (-5.358, 0.7307, -0.4494, -0.0722, 0.1019),
    "h0n gap": (-5.708, 0.7197, -0.9354, -0.1276, -0.5518),
    "h0n round blob": (-7.226, 0.8067, 1.606, 0.1194, -0.4337),
    "h0n round gap": (-7.997, 0.8256, 0.1604, 0.04819, 0.5909),
    "h0w blob": (-5.103, 0.594, 0.6655, 0.1976, -0.1031),
    "h0w gap": (-5.479, 0.5842, -0.03664, 0.02187, 0.2299),
    "h0w round blob": (-6.961, 0.6646, -1.015, -0.2144, 0.2844),
    "h0w round gap": (-7.803, 0.6984, 0.3073, -0.02984, 0.009512),
    "h1n blob": (-5.425, 0.4687, -0.1202, -0.07245, -0.02429),
    "h1n gap": (-5.801, 0.4499, 0.003863, -0.02546, 0.02879),
    "h1n round blob": (-7.213, 0.5244, 0.1283, 0.06646, 0.01187),
    "h1n round gap": (-8.03, 0.5629, -0.1665, 0.09263, -0.0634),
    "h1w blob": (-5.314, 0.4404, 0.2611, 0.0125, -0.05754),
    "h1w gap": (-5.687, 0.4035, 0.02725, 0.01972, 0.1411),
    "h1w round blob": (-7.132, 0.4997, -0.2844, -0.01036, 0.03448),
    "h1w round gap": (-7.94, 0.5115, 0.05594, -0.03198, -0.08759),
    "h2n blob": (-5.775, 0.4667, 0.0226, -0.1094, 0.01232),
    "h2n gap": (-6.094, 0.4138, -0.03004, 0.0136, -0.08933),
    "h2n round blob": (-7.582, 0.5183, -0.03181, 0.06906, -0.111),
    "h2n round gap": (-8.247, 0.4979, -0.01563, 0.01208, 0.01059),
    "h2w blob": (-5.726, 0.5173, -0.04146, 0.09665, -0.09736),
    "h2w gap": (-6.004, 0.4666, 0.1273, -0.0245, 0.06588),
    "h2w round blob": (-7.597, 0.5748, -0.06346, -0.02801, 0.1773),
    "h2w round gap": (-8.177, 0.5446, -0.02853, -0.01685, -0.005728),
    "d span": (-1.833, 0.9317, 0.06593, 0.01643, -0.0169),
    "d mean": (0.2793, 0.08155, -0.03112, 0.004291, 0.04648),
    "d skew": (1.536, 0.7756, -0.0511, 0.0134, 0.02074),
    "d0n blob": (-5.616, 0.7735, -0.691, -0.1648, -0.6563),
    "d0n gap": (-5.995, 0.7816, -0.9253, -0.1627, 0.197),
    "d0n round blob": (-7.576, 0.8538, 1.08, 0.07912, 0.7435),
    "d0n round gap": (-8.169, 0.8316, 0.7165, 0.185, -0.1564),
    "d0w blob": (-5.342, 0.6311, 0.2005, -0.1732, -0.4783),
    "d0w gap": (-5.729, 0.6361, 0.611, 0.1343, 0.2594),
    "d0w round blob": (-7.294, 0.6962, -0.456, 0.211, 0.166),
    "d0w round gap": (-7.934, 0.6986, -0.3721, -0.08273, -0.07638),
    "d1n blob": (-5.628, 0.478, -0.3402, -0.03288, 0.5155),
    "d1n gap": (-5.995, 0.4812, -0.014, 0.06092, 0.03894),
    "d1n round blob": (-7.486, 0.5135, 0.3179, -0.02371, -0.3711),
    "d1n round gap": (-8.143, 0.5785, -0.118, 0.02907, -0.09614),
    "d1w blob": (-5.474, 0.4204, 0.183, 0.06089, -0.1707),
    "d1w gap": (-5.84, 0.4208, 0.143, -0.07355, -0.1932),
    "d1w round blob": (-7.355, 0.4453, -0.2219, -0.0009514, 0.1492),
    "d1w round gap": (-8.039, 0.547, -0.02351, -0.02358, 0.1074),
    "d2n blob": (-5.851, 0.4228, -0.0182, 0.00563, 0.2495),
    "d2n gap": (-6.184, 0.4212, -0.08568, 0.02996, -0.0496),
    "d2n round blob": (-7.7, 0.4346, 0.01777, 0.0165, -0.1479),
    "d2n round gap": (-8.343, 0.563, -0.01604, 0.019, 0.0836),
    "d2w blob": (-5.725, 0.4807, 0.07566, -0.01734, -0.2753),
    "d2w gap": (-6.045, 0.473, 0.01331, -0.01409, 0.08629),
    "d2w round blob": (-7.63, 0.4955, -0.02534, -0.01884, 0.1784),
    "d2w round gap": (-8.259, 0.6346, 0.02793, -0.0108, -0.02056),
    "0n both": (0.7406, 0.2082, 0.1497, -0.04967, -0.05486),
    "0w both": (0.7189, 0.2079, -0.272, 0.07678, 0.09722),
    "1n both": (0.6909, 0.207, 0.1492, -0.06048, -0.1363),
    "1w both": (0.6856, 0.2076, -0.08454, 0.04637, 0.1583),
    "2n both": (0.6989, 0.2123, 0.02883, 0.008176, 0.06004),
    "2w both": (0.7227, 0.214, 0.04612, -0.02673, -0.1099),
}


# --- what is answered ----------------------------------------------------------------------------


@dataclass(frozen=True)
class SetScale:
    """The scale of pictures of one origin; NaN with a reason where it cannot be told."""

    mpp: float  # micrometres a pixel, median of the pictures that answer
    low: float  # the ends of a 90 % interval
    high: float
    n_images: int  # looked at
    n_answered: int
    spread: float  # standard deviation of the natural logarithm, from the quartiles
    reason: str  # why it cannot be told, or ""

    def sentence(self, flag: str = "--mpp") -> str:
        """str, one sentence for a user: the scale and where it is from, or why there is none.

        flag: of the command line, which states the scale.
        Example: estimate_set_mpp(images).sentence().
        """
        if self.reason:
            return f"The scale cannot be told: {self.reason}. State it with {flag}."
        text = (
            f"About {self.mpp:.2f} um a pixel ({self.low:.2f} to {self.high:.2f}), estimated from "
            f"nuclei and membranes in {self.n_answered} of "
            f"{count_text(self.n_images, 'picture')}"
        )
        if self.spread > MIXED:
            text += "; they differ so much that several scales may be mixed"
        return f"{text}. Where you know it, state it with {flag}."


def estimate_mpp(images: np.ndarray) -> pd.DataFrame:
    """DataFrame, a row per image: mpp, low, high (9 of 10 phantoms lie between), reason.

    images: uint8 (N,3,H,W), an array, a memory map or a tensor in main memory. mpp is NaN where
    the scale cannot be told, and reason says why. Raises ValueError for anything else.
    Example: estimate_mpp(patches.images[:8]).
    """
    _check_images(images)
    rows = []
    for image in images:
        rows.append(_estimate(np.asarray(image)))
    return pd.DataFrame(rows, columns=["mpp", "low", "high", "reason"])


def estimate_set_mpp(images: np.ndarray, *, most: int = 64) -> SetScale:
    """SetScale, one scale for uint8 images (N,3,H,W) of one origin and one size in pixels.

    At most so many images are looked at, evenly through the set. Raises ValueError for arrays
    that are no images. Example: estimate_set_mpp(patches.images).mpp.
    """
    _check_images(images)
    rows = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    return pool_mpp(pd.concat([estimate_mpp(images[row : row + 1]) for row in rows]))


def pool_mpp(estimates: pd.DataFrame) -> SetScale:
    """SetScale of the rows of estimate_mpp, of pictures of one origin: their median.

    Example: pool_mpp(estimate_mpp(images)).
    """
    logs = np.log(estimates["mpp"].dropna().to_numpy(float))
    counts = {"n_images": len(estimates), "n_answered": len(logs)}
    if len(logs) == 0 or len(logs) < LEAST_ANSWERED * len(estimates):
        commonest = estimates.loc[estimates["mpp"].isna(), "reason"].mode().iloc[0]
        silent = len(estimates) - len(logs)
        pictures = count_text(len(estimates), "picture")
        reason = f"not shown by {silent} of {pictures}, mostly because {commonest}"
        return SetScale(np.nan, np.nan, np.nan, **counts, spread=np.nan, reason=reason)
    # few pictures say little of their own spread: that of phantoms stands in for it
    spread = SPREAD
    if len(logs) >= 4:
        spread = float(np.subtract(*np.percentile(logs, (75, 25)))) / 1.349
    middle = float(np.median(logs))
    # 1.253 sigma / root n is the standard error of a median
    half = float(np.hypot(ORIGIN, 1.645 * 1.253 * spread / np.sqrt(len(logs))))
    mpp, low, high = np.exp([middle, middle - half, middle + half]).tolist()
    return SetScale(mpp=mpp, low=low, high=high, spread=spread, **counts, reason="")


# --- one picture ---------------------------------------------------------------------------------


def _check_images(images):
    """Raises ValueError unless images are uint8 (N,3,H,W), at least one."""
    kind = str(images.dtype).removeprefix("torch.")
    if kind != "uint8" or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(
            f"Images must be uint8 (N,3,H,W), not {kind} {tuple(images.shape)}: "
            "permute and stack them."
        )


def _estimate(image):
    """(mpp, low, high, reason) of one image (3,H,W)."""
    side_px = min(image.shape[1:])
    if side_px < LEAST_PX:
        return _silent(f"it is {side_px} px wide, and too few nuclei fit into less than {LEAST_PX}")
    copies = copy_features(image)
    if np.exp(copies[["h span", "d span"]].to_numpy().max()) < LEAST_STAIN:
        return _silent("almost nothing in it is stained")
    reading = read_copies(copies)
    half = float(np.exp(np.dot(DOUBT, doubt_terms(reading))))
    mpp = float(np.exp(reading["log_mpp"]))
    if reading["strange"] > MOST_STRANGE:
        return _silent("it does not look like stained tissue in focus")
    if half > WIDEST or reading["rise"] < LEAST_RISE:
        return _silent("its nuclei and membranes are too few, too small or too blurred")
    if max(mpp, np.exp(reading["log_unreduced"])) > COARSEST_UM:
        return _silent(f"it seems coarser than {COARSEST_UM} um a pixel, where nuclei are specks")
    if mpp < FINEST_UM:
        return _silent(f"it seems finer than {FINEST_UM} um a pixel, or enlarged")
    return mpp, mpp * np.exp(-half), mpp * np.exp(half), ""


def _silent(reason):
    """(NaN, NaN, NaN, reason)."""
    return np.nan, np.nan, np.nan, reason


# --- the table -----------------------------------------------------------------------------------


def read_copies(copies: pd.DataFrame) -> dict[str, float]:
    """dict of the copies' common log_mpp, and of what speaks for and against it.

    disagreement of the copies, how strange they are, their log_side (in px), the log_unreduced mpp
    of the first one, and how readings rise with halving (1: as they must).
    copies: blob_filters.copy_features of one picture. Example: read_copies(copy_features(image)).
    """
    centre, spread, first, again, turn = np.array(list(TABLE.values())).T  # each (features,)
    standard = (copies[list(TABLE)].to_numpy() - centre) / spread  # (copies,features)
    clipped = standard.clip(-4, 4)
    # a first reading says about which scale a copy has; at another one the same features weigh
    # differently, so it bends the second reading
    about = FIRST + clipped @ first
    logs = clipped @ again + about * (clipped @ turn)
    logs += np.polynomial.polynomial.polyval(about, BEND)
    weights = np.exp(-((logs - np.log(BEST_UM)) ** 2) / (2 * PREFERENCE**2)) + 1e-9
    weights /= weights.sum()
    halved = np.log(copies["reduced"].to_numpy())  # 0, 0.7, 1.4
    answers = logs - halved
    log_mpp = weights @ answers
    return {
        "log_mpp": float(log_mpp),
        "disagreement": float(np.sqrt(weights @ (answers - log_mpp) ** 2)),
        "strange": float(weights @ (standard**2).mean(axis=1)),
        "log_side": float(weights @ np.log(copies["side_px"].to_numpy())),
        "log_unreduced": float(logs[0]),
        "rise": float((logs[-1] - logs[0]) / (halved[-1] - halved[0])),
    }


def doubt_terms(reading: dict[str, float]) -> tuple[float, ...]:
    """(4,) what DOUBT weighs, of a reading of read_copies. Example: doubt_terms(reading)."""
    strange = float(np.log(reading["strange"]))
    return 1.0, reading["disagreement"], strange, reading["log_side"]
