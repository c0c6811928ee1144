"""Times the Gaussian fit of matching against SciPy's `curve_fit`, called keypoint by keypoint.

30 people of 17 keypoints each: patches of 13x13 pixels cut from heatmaps at input size, made of Gaussians of 2 map
pixels and noise, upsampled four times as the decoder does. Both start from the same values. Prints CPU time ratios, and
the largest distance between the tops where both converge. Exits with 1 where that is more than 0.02 pixels.

python benchmarks/matching.py [--noise 0.05] [--rounds 5]
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import scipy
from scipy.optimize import curve_fit

from dekr_tf.inference.matching import FIRST_SIGMA, PATCH_RADIUS, fit_gaussians
from dekr_tf.inference.multi_scale import View, mean_heatmaps

KEYPOINTS = 30 * 17
SIDE = 2 * PATCH_RADIUS + 1
#: Largest distance, pixels, that still counts as agreement.
TOLERANCE = 0.02


def make_patches(noise: float) -> np.ndarray:
    """(P, 13, 13) around the highest pixel of heatmaps with one keypoint each."""
    rng = np.random.default_rng(0)
    cells = np.arange(16)
    middles = rng.uniform(6, 9, (KEYPOINTS, 2, 1))
    rows, columns = np.moveaxis(np.exp(-((cells - middles) ** 2) / 8), 1, 0)
    heatmap = rows.T[:, None] * columns.T + noise * rng.standard_normal((16, 16, KEYPOINTS))
    view = View(1.0, None, None, None, np.pad(heatmap, ((0, 0), (0, 0), (0, 1))).astype(np.float32))
    patches = []
    for upsampled in mean_heatmaps([view], (64, 64)):
        inner = upsampled[PATCH_RADIUS:-PATCH_RADIUS, PATCH_RADIUS:-PATCH_RADIUS]
        row, column = np.unravel_index(inner.argmax(), inner.shape)
        patches.append(upsampled[row : row + SIDE, column : column + SIDE])
    return np.stack(patches)


def gaussian(pixels, height, y, x, sigma):
    return height * np.exp(-((pixels[0] - y) ** 2 + (pixels[1] - x) ** 2) / (2 * sigma**2))


def fit_one_by_one(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tops (P, 2) and whether the fit converged (P,), by SciPy."""
    pixels = np.mgrid[:SIDE, :SIDE].reshape(2, -1).astype(float)
    tops, converged = np.zeros((len(patches), 2)), np.zeros(len(patches), bool)
    for index, patch in enumerate(patches):
        start = patch[PATCH_RADIUS, PATCH_RADIUS], PATCH_RADIUS, PATCH_RADIUS, FIRST_SIGMA
        try:
            tops[index] = curve_fit(gaussian, pixels, patch.ravel(), p0=start, maxfev=300)[0][1:3]
            converged[index] = True
        except RuntimeError:
            pass
    return tops, converged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=float, default=0.05, help="of the heatmaps, whose peaks have 1")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each side")
    options = parser.parse_args()
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    print(f"CPU: {cpu.split(':')[-1].strip()}; load {os.getloadavg()[0]:.2f}")
    print(f"NumPy {np.__version__}, SciPy {scipy.__version__}; {KEYPOINTS} keypoints, noise {options.noise:g}")

    patches = make_patches(options.noise)
    extents, starts = np.full((KEYPOINTS, 2), SIDE), np.full((KEYPOINTS, 2), PATCH_RADIUS)
    warnings.simplefilter("ignore")
    sides = {"scipy": lambda: fit_one_by_one(patches), "together": lambda: fit_gaussians(patches, extents, starts)}
    results = {name: run() for name, run in sides.items()}
    times = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, run in sides.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    (peer_tops, peer_converged), (tops, converged) = results["scipy"], results["together"]
    both = converged & peer_converged
    distance = np.linalg.norm(tops - peer_tops, axis=1)[both].max(initial=0.0)
    print(f"converged: both {both.sum()}, SciPy {peer_converged.sum()}, together {converged.sum()} of {KEYPOINTS}")
    print(f"largest distance between the tops: {distance:.1e} pixels")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:9} {1e3 * median / KEYPOINTS:7.3f} ms a keypoint")
    print(f"ratio     {medians['scipy'] / medians['together']:7.1f}")
    return int(distance > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
