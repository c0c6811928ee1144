"""Matching: moves regressed keypoints to the closest peaks of the heatmaps (paper, Table 6).

A keypoint moves to the closest peak of its heatmap; then a Gaussian is fitted to the heatmap around it, and the
keypoint moves to its top. Positions are in pixels of the network's input, as are the maps. Follows the reference's
lib/core/match.py.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np

from dekr_tf.poses import Poses

#: Peaks this many pixels or more from a keypoint belong to somebody else.
MATCH_DISTANCE = 75.0
#: A peak is the highest value within this many pixels along each axis.
PEAK_RADIUS = 2
#: The Gaussian is fitted to the pixels up to this far from the keypoint along each axis.
PATCH_RADIUS = 6
#: A keypoint is refined if its score is above this.
MIN_REFINED_SCORE = 0.05
#: Standard deviation, in pixels, that a fit begins with.
FIRST_SIGMA = 2.0
#: A fit that leaves at least this fraction of a patch's variation unexplained has found no Gaussian there.
MAX_UNEXPLAINED = 0.9
#: A fit that takes more steps does not converge.
MAX_STEPS = 30
#: A fit has converged when a step moves its top by fewer pixels than this along each axis.
LAST_STEP = 1e-4


def match_keypoints(
    poses: Poses, heatmaps: Iterable[np.ndarray], *, max_peaks: int, border: Literal["cut", "reference"] = "cut"
) -> Poses:
    """Moves keypoints to peaks of their heatmaps and refines them; scores stay.

    A keypoint stays where it was if no peak lies within `MATCH_DISTANCE`, and on the peak if the fit does not converge.

    Args:
        poses: in pixels of the network's input.
        heatmaps: K maps (H, W) of input size, one for each keypoint.
        max_peaks: at most this many peaks of a map count, the highest.
        border: how to fit a patch that the map's border cuts. `cut` uses the part inside; `reference` reads its pixels
            as if rows were columns, as the reference does, which displaces keypoints near the border by arbitrary
            amounts.
    """
    keypoints = poses.keypoints.copy()
    side = 2 * PATCH_RADIUS + 1
    # For each patch: the people and the keypoint that it is for, and what the fit needs.
    people, patches, extents, starts, corners = [], [], [], [], []
    for index, heatmap in enumerate(heatmaps):
        _move_to_peaks(keypoints[:, index], find_peaks(heatmap, max_peaks))
        limit = np.array(heatmap.shape) - 1
        refined = np.flatnonzero(keypoints[:, index, 2] > MIN_REFINED_SCORE)
        pixels = np.clip(np.floor(keypoints[refined, index, 1::-1] + 0.5).astype(np.intp), 0, limit)
        pixels, same = np.unique(pixels, axis=0, return_inverse=True)
        same = same.reshape(-1)
        for number, pixel in enumerate(pixels):
            top, left = corner = np.maximum(pixel - PATCH_RADIUS, 0)
            bottom, right = pixel + PATCH_RADIUS + 1
            patch = heatmap[top:bottom, left:right]
            if border == "reference":
                patch = patch.reshape(patch.shape[::-1])
            padded = np.zeros((side, side), heatmap.dtype)
            padded[: patch.shape[0], : patch.shape[1]] = patch
            people.append((refined[same == number], index))
            patches.append(padded)
            extents.append(patch.shape)
            starts.append(pixel - corner)
            corners.append(corner)
    if patches:
        tops, converged = fit_gaussians(np.stack(patches), np.array(extents), np.array(starts))
        for number in np.flatnonzero(converged):
            rows, index = people[number]
            keypoints[rows, index, :2] = (tops[number] + corners[number])[::-1]
    return replace(poses, keypoints=keypoints)


def find_peaks(heatmap: np.ndarray, count: int) -> np.ndarray:
    """The highest peaks of a map: pixels above zero that are the highest within `PEAK_RADIUS`.

    Args:
        heatmap: (H, W) float32.
        count: at most this many peaks.

    Returns:
        (N, 2) int x, y, highest first.
    """
    highest = cv2.dilate(heatmap, np.ones((2 * PEAK_RADIUS + 1,) * 2, np.uint8))
    rows, columns = np.nonzero((heatmap == highest) & (heatmap > 0))
    order = np.argsort(-heatmap[rows, columns], kind="stable")[:count]
    return np.stack([columns[order], rows[order]], axis=-1)


def _move_to_peaks(keypoints, peaks):
    """Writes the closest of `peaks` (M, 2) over the x, y of each of `keypoints` (N, 3) that is near enough."""
    if not len(peaks) or not len(keypoints):
        return
    distances = np.linalg.norm(keypoints[:, None, :2] - peaks.astype(np.float32), axis=-1)
    closest = distances.argmin(axis=1)
    near = distances.min(axis=1) < MATCH_DISTANCE
    keypoints[near, :2] = peaks[closest[near]]


def fit_gaussians(patches: np.ndarray, extents: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits A exp(-((y - y0)^2 + (x - x0)^2) / (2 s^2)) to each patch, by least squares, all at once.

    It runs the Levenberg-Marquardt method on A, y0, x0 and s, from the patch's value at the start and `FIRST_SIGMA`.
    The Gaussian is a product of one over rows and one over columns, so all sums over pixels that a step needs come
    from moments along the axes.

    Args:
        patches: (P, S, S) values; those beyond the extent are ignored.
        extents: (P, 2) rows and columns of a patch that count, from the first on.
        starts: (P, 2) row and column of the pixel to start from.

    Returns:
        tops (P, 2), row and column of y0 and x0 in the patch, and whether the fit converged to something that explains
        the patch (P,).
    """
    count, side, _ = patches.shape
    cells = np.arange(side)
    inside = cells < np.asarray(extents)[..., None]
    mask = inside[:, 0, :, None] & inside[:, 1, None]
    patches = np.where(mask, patches, 0).astype(np.float64)
    energy = np.square(patches).sum(axis=(1, 2))
    mean = patches.sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        variation = np.square(np.where(mask, patches - mean[:, None, None], 0)).sum(axis=(1, 2))

    # From here on, the patches are the last axis, along which NumPy is fast.
    fit = _Fit(np.ascontiguousarray(np.moveaxis(patches, 0, -1)), np.moveaxis(inside, 0, -1).astype(np.float64), energy)
    first = np.empty((4, count))
    first[0] = patches[np.arange(count), starts[:, 0], starts[:, 1]]
    first[1:3] = np.transpose(starts)
    first[3] = FIRST_SIGMA
    tops, converged, cost = np.array(starts, np.float64), np.zeros(count, bool), np.full(count, np.inf)
    active = np.arange(count)
    with np.errstate(all="ignore"):
        fit.begin(first)
        for _ in range(MAX_STEPS):
            done = fit.step()
            tops[active[done]] = fit.values[1:3, done].T
            cost[active[done]] = fit.cost[done]
            converged[active[done]] = True
            # On a slope, the fitted top diverges.
            fitting = ~done & (np.abs(fit.values[1:3] - side // 2).max(axis=0) < MATCH_DISTANCE)
            if not fitting.any():
                break
            if not fitting.all():
                active = active[fitting]
                fit.keep(fitting)
    # A flat patch has nothing but rounding errors to explain.
    converged &= (variation > 1e-10 * energy) & (cost < MAX_UNEXPLAINED * variation)
    return tops, converged & np.isfinite(tops).all(axis=1)


class _Fit:
    """The Levenberg-Marquardt method for many patches; every array has the patches along its last axis.

    Attributes:
        values: (4, P) A, y0, x0, s.
        cost: (P,) sum of squared differences.
    """

    def __init__(self, patches, inside, energy):
        self.patches = patches
        self.inside = inside
        self.energy = energy

    def begin(self, values):
        self.values = values
        self.cost, self.normal, self.gradient = self._evaluate(values)
        self.scale = np.zeros_like(values)
        self.damping = np.full(values.shape[1], 1e-3)

    def keep(self, chosen):
        """Continues with the chosen patches (P,) bool alone."""
        for name, array in vars(self).items():
            setattr(self, name, np.compress(chosen, array, axis=-1))

    def step(self):
        """Takes one step where it lowers the cost, and says which fits have converged with it (P,)."""
        diagonal = np.einsum("iip->ip", self.normal)
        self.scale = np.maximum(np.maximum(self.scale, diagonal), 1e-300)
        damped = self.normal.copy()
        np.einsum("iip->ip", damped)[...] += self.damping * self.scale
        step = -_solve(damped, self.gradient)
        values = self.values + step
        cost, normal, gradient = self._evaluate(values)
        expected = -2 * (step * self.gradient).sum(axis=0) - np.einsum("ip,ijp,jp->p", step, self.normal, step)
        gained = self.cost - cost
        # The cost is a difference of large numbers: close to a perfect fit it may seem to rise.
        accepted = gained >= -1e-14 * self.energy
        still = (np.abs(step[1:3]).max(axis=0) < LAST_STEP) & (np.abs(step[3]) < LAST_STEP * np.abs(self.values[3]))
        done = accepted & still & (self.damping < 1)

        self.values = np.where(accepted, values, self.values)
        self.cost = np.where(accepted, cost, self.cost)
        self.normal = np.where(accepted, normal, self.normal)
        self.gradient = np.where(accepted, gradient, self.gradient)
        quality = gained / np.maximum(expected, 1e-300)
        # A rejected step, or one whose cost is NaN, has a poor quality too.
        factor = np.where(quality > 0.75, 0.3, np.where(quality >= 0.25, 1.0, 2.0))
        self.damping = np.clip(self.damping * factor, 1e-12, 1e12)
        return done

    def _evaluate(self, values):
        """Cost (P,), normal matrix (4, 4, P) and gradient (4, P), both of half the cost, at values (4, P).

        With u and v the distance in rows and columns from the top and g the Gaussian of height 1, the derivatives by
        A, y0, x0 and s are g, g u, g v and g (u^2 + v^2) times a factor each.
        """
        height, precision = values[0], 1 / np.square(values[3])
        distance = np.arange(len(self.patches))[:, None] - values[1:3, None]
        across = np.empty((3, *distance.shape))
        np.multiply(np.exp(np.square(distance) * (-0.5 * precision)), self.inside, out=across[0])
        np.multiply(across[0], distance, out=across[1])
        np.multiply(across[1], distance, out=across[2])
        # Sums over the patch of g^2 u^i v^j, and below of its values times g u^i v^j.
        moments = np.empty((5, *values[1:3].shape))
        for index, moment in enumerate(moments):
            np.einsum("acp,acp->ap", across[index // 2], across[(index + 1) // 2], out=moment)
        own = moments[:, None, 0] * moments[:, 1]
        seen = np.einsum("rcp,jcp->jrp", self.patches, across[:, 1])
        seen = np.einsum("irp,jrp->ijp", across[:, 0], seen)

        normal = np.empty((4, 4, len(height)))
        normal[0] = own[0, 0], own[1, 0], own[0, 1], own[2, 0] + own[0, 2]
        normal[1, 1:] = own[2, 0], own[1, 1], own[3, 0] + own[1, 2]
        normal[2, 2:] = own[0, 2], own[2, 1] + own[0, 3]
        normal[3, 3] = own[4, 0] + 2 * own[2, 2] + own[0, 4]
        for row in range(1, 4):
            normal[row, :row] = normal[:row, row]
        gradient = height * normal[0]
        gradient -= seen[0, 0], seen[1, 0], seen[0, 1], seen[2, 0] + seen[0, 2]
        factor = np.ones_like(values)
        factor[1:] = height * precision
        factor[3] /= values[3]
        cost = height * (height * own[0, 0] - 2 * seen[0, 0]) + self.energy
        normal *= factor
        normal *= factor[:, None]
        return cost, normal, gradient * factor


def _solve(matrix, right):
    """Solves matrix (4, 4, P) x = right (4, P) for x (4, P); the matrices are positive definite."""
    # Elimination needs no pivoting here, and is several times faster than `np.linalg.solve` on many small matrices.
    matrix, right = matrix.copy(), right.copy()
    size = len(right)
    for pivot in range(size - 1):
        factor = matrix[pivot + 1 :, pivot] / matrix[pivot, pivot]
        matrix[pivot + 1 :, pivot:] -= factor[:, None] * matrix[pivot, pivot:]
        right[pivot + 1 :] -= factor * right[pivot]
    for row in reversed(range(size)):
        right[row] -= (matrix[row, row + 1 :] * right[row + 1 :]).sum(axis=0)
        right[row] /= matrix[row, row]
    return right
