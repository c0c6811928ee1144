// From the network's maps to candidates, and from candidates to poses, as docs/decoding.md explains.
//
// A map is {data, height, width, channels}, cell by cell. A candidate is {center, keypoints}, its center score and K
// keypoints {x, y, score}; a pose is {score, keypoints}. Both are in pixels of the network's input. Settings have the
// names of the sidecar.

import { extent, poseNms } from './pose_nms.js';

export const OUTPUT_STRIDE = 4;
/** A center is the highest of 3x3 cells; of 5x5 and 7x7 where the mean of the map's sides is above these. */
const CENTER_NMS_SIDES = [200, 300];
/** Peaks of a keypoint's heatmap, and their heights times the weight of their distance, count above this. */
const PEAK_THRESHOLD = Math.fround(0.02);
/** The sides of a pose's box count at least this many pixels when its keypoints move to peaks. */
const PEAK_MIN_SIDE = 16;
/** Where an annotation has no area, it is this share of the person's box. */
const AREA_PER_BOX = 0.53;

export const DECODER_DEFAULTS = {
  max_people: 30,
  center_threshold: 0.01,
  nms_distance: 0.05,
  nms_keypoints: null, // K // 2
  peak_distance: 0,
  keypoint_error: 0,
  min_score: 0.1, // for showing people, not for finding them
};

/**
 * Finds the candidates in the maps of one photo (steps 1 to 3).
 *
 * @param {object} heatmap - K keypoints, the center last
 * @param {(cells: {row: number, column: number}[]) => ArrayLike<number>[]} offsetsAt - grid minus keypoint at cells, in
 *   map pixels, x and y in turn
 * @param {object} settings
 * @param {{heatmap: object, offsetsAt: Function, flipIndices: number[]}} [mirrored] - of the mirrored input (flip test)
 * @returns {{center: number, keypoints: {x: number, y: number, score: number}[]}[]} the highest center first
 */
export function findCandidates(heatmap, offsetsAt, settings, mirrored) {
  if (mirrored) heatmap = averageHeatmaps(heatmap, mirrored.heatmap, mirrored.flipIndices);
  const centers = findCenters(heatmap, settings);
  let poses = regressKeypoints(offsetsAt, centers);
  if (mirrored) {
    const last = heatmap.width - 1;
    const mirroredCells = centers.map(({ row, column }) => ({ row, column: last - column }));
    const others = regressKeypoints(mirrored.offsetsAt, mirroredCells);
    poses = poses.map((pose, index) =>
      pose.map(({ x, y }, k) => {
        const other = others[index][mirrored.flipIndices[k]];
        return { x: (x + last - other.x) / 2, y: (y + other.y) / 2 };
      }),
    );
  }
  poses = poses.map((pose) => pose.map(({ x, y }) => ({ x: OUTPUT_STRIDE * x, y: OUTPUT_STRIDE * y })));
  if (settings.peak_distance) poses = moveToPeaks(poses, heatmap, settings);
  return poses.map((pose, index) => {
    const center = centers[index].score;
    const keypoints = pose.map((place, k) => ({ ...place, score: center * heatValue(heatmap, k, place) }));
    return { center, keypoints };
  });
}

/** Step 1: the cells of the center channel that are the highest of their neighborhood, highest first. */
export function findCenters(heatmap, settings) {
  const { height, width, channels } = heatmap;
  const side = (height + width) / 2;
  const radius = 1 + CENTER_NMS_SIDES.filter((limit) => side > limit).length;
  const threshold = Math.fround(settings.center_threshold);
  return highestCells(heatmap, channels - 1, radius, threshold, settings.max_people);
}

/** The cells {row, column, score} of a channel that are the highest of their neighborhood, the `most` highest. */
function highestCells({ data, height, width, channels }, channel, radius, threshold, most) {
  const at = (row, column) => data[(row * width + column) * channels + channel];
  const isHighest = (row, column, score) => {
    for (let y = Math.max(row - radius, 0); y <= Math.min(row + radius, height - 1); y++) {
      for (let x = Math.max(column - radius, 0); x <= Math.min(column + radius, width - 1); x++) {
        if (at(y, x) > score) return false;
      }
    }
    return true;
  };
  const cells = [];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const score = at(row, column);
      if (score > threshold && isHighest(row, column, score)) cells.push({ row, column, score });
    }
  }
  // The sort is stable, so equal ones stay in row-major order.
  return cells.sort((a, b) => b.score - a.score).slice(0, most);
}

/** Peaks, of step 2: each keypoint at the peak of its heatmap with the highest product of height and nearness. */
function moveToPeaks(poses, heatmap, settings) {
  if (!poses.length) return poses;
  const peaks = poses[0].map((_, k) => findPeaks(heatmap, k, settings.max_people));
  return poses.map((pose) => {
    const [width, height] = extent(pose).map((side) => Math.max(side, PEAK_MIN_SIDE));
    const spread = 2 * settings.peak_distance ** 2 * width * height;
    return pose.map(({ x, y }, k) => {
      let best = { x, y };
      let highest = PEAK_THRESHOLD;
      for (const peak of peaks[k]) {
        const weight = peak.height * Math.exp(-((peak.x - x) ** 2 + (peak.y - y) ** 2) / spread);
        if (weight > highest) [best, highest] = [{ x: peak.x, y: peak.y }, weight];
      }
      return best;
    });
  });
}

/** The highest peaks {x, y, height} of a keypoint's heatmap, the highest first, in pixels of the network's input. */
function findPeaks(heatmap, channel, maxPeaks) {
  const { data, height, width, channels } = heatmap;
  const at = (row, column) => data[(row * width + column) * channels + channel];
  const between = (place, side) => place > 0 && place < side - 1;
  return highestCells(heatmap, channel, 1, PEAK_THRESHOLD, maxPeaks).map(({ row, column, score }) => {
    const right = between(column, width) ? vertex(at(row, column - 1), score, at(row, column + 1)) : 0;
    const down = between(row, height) ? vertex(at(row - 1, column), score, at(row + 1, column)) : 0;
    return { x: OUTPUT_STRIDE * (column + right), y: OUTPUT_STRIDE * (row + down), height: score };
  });
}

/** Where the parabola through three values, the middle one the highest, has its vertex: -0.5 to 0.5. */
function vertex(before, middle, after) {
  const curvature = 2 * middle - before - after;
  return curvature > 0 ? (after - before) / (2 * curvature) : 0;
}

/**
 * The candidates in the outputs of the graph `poses`; places that it left empty are candidates of score 0.
 *
 * @param {Float32Array} keypoints - (N, K, 2)
 * @param {Float32Array} scores - (N, K)
 * @param {Float32Array} centers - (N)
 */
export function candidatesOf(keypoints, scores, centers) {
  const count = scores.length / centers.length;
  return Array.from(centers, (center, index) => ({
    center,
    keypoints: Array.from({ length: count }, (_, k) => {
      const place = index * count + k;
      return { x: keypoints[2 * place], y: keypoints[2 * place + 1], score: scores[place] };
    }),
  }));
}

/**
 * The poses in the outputs of a graph with final poses (`dekr export --final`), best first.
 *
 * @param {Float32Array} keypoints - (N, K, 3), x, y and score
 * @param {Float32Array} scores - (N)
 * @param {number} count - how many of the N there are
 */
export function finalPoses(keypoints, scores, count) {
  const values = keypoints.length / scores.length;
  return Array.from(scores.subarray(0, count), (score, index) => ({
    score,
    keypoints: Array.from({ length: values / 3 }, (_, k) => {
      const [x, y, heat] = keypoints.subarray(values * index + 3 * k);
      return { x, y, score: heat };
    }),
  }));
}

/** Step 4: the indices of the candidates that pose NMS keeps, in its order. */
export function keptCandidates(candidates, settings) {
  const isFinite = ({ x, y, score }) => Number.isFinite(x + y + score);
  const found = [...candidates.keys()].filter(
    (index) => candidates[index].center !== 0 && candidates[index].keypoints.every(isFinite),
  );
  const poses = found.map((index) => candidates[index].keypoints);
  const ranks = found.map((index, place) =>
    settings.peak_distance ? meanScore(poses[place]) : meanScore(poses[place]) / candidates[index].center,
  );
  const minKeypoints = settings.nms_keypoints ?? Math.floor((poses[0]?.length ?? 0) / 2);
  let kept = poseNms(poses, ranks, settings.nms_distance, minKeypoints);
  if (kept.length > settings.max_people) {
    kept = kept.sort((a, b) => ranks[b] - ranks[a]).slice(0, settings.max_people);
  }
  return kept.map((place) => found[place]);
}

/**
 * Step 4: the poses among candidates, best first.
 *
 * @param {object[]} candidates
 * @param {object} settings
 * @param {number[]} [oksSigmas] - K falloffs of the skeleton, needed with a known keypoint error
 * @returns {{score: number, keypoints: {x: number, y: number, score: number}[]}[]}
 */
export function selectPoses(candidates, settings, oksSigmas) {
  const poses = keptCandidates(candidates, settings).map((index) => asPose(candidates[index].keypoints));
  const sorted = bestFirst(poses);
  if (!settings.keypoint_error) return sorted;
  const discount = ({ keypoints }) => asPose(discountScores(keypoints, settings.keypoint_error, oksSigmas));
  return bestFirst(sorted.map(discount));
}

/** Multiplies keypoint scores by the OKS to expect with errors of `keypointError` pixels along each axis. */
export function discountScores(keypoints, keypointError, oksSigmas) {
  const [width, height] = extent(keypoints);
  return keypoints.map(({ x, y, score }, k) => {
    const variance = AREA_PER_BOX * width * height * (2 * oksSigmas[k]) ** 2;
    return { x, y, score: (score * variance) / (variance + keypointError ** 2) };
  });
}

/** Step 2, in map pixels. */
function regressKeypoints(offsetsAt, cells) {
  return offsetsAt(cells).map((offsets, index) => {
    const { row, column } = cells[index];
    return Array.from({ length: offsets.length / 2 }, (_, k) => ({
      x: Math.fround(column - offsets[2 * k]),
      y: Math.fround(row - offsets[2 * k + 1]),
    }));
  });
}

/** Step 3: the heatmap's value at a keypoint, bilinear between four cells. */
function heatValue({ data, height, width, channels }, channel, { x, y }) {
  const [left, right, horizontal] = cellsAbout(x, width);
  const [top, bottom, vertical] = cellsAbout(y, height);
  const at = (row, column) => data[(row * width + column) * channels + channel];
  const above = at(top, left) * (1 - horizontal) + at(top, right) * horizontal;
  const below = at(bottom, left) * (1 - horizontal) + at(bottom, right) * horizontal;
  return above * (1 - vertical) + below * vertical;
}

/** Between which two cells a position lies, rounded down to a pixel of the input, and how far between them. */
function cellsAbout(position, cells) {
  const pixel = Math.min(Math.max(Math.floor(position), 0), cells * OUTPUT_STRIDE - 1) / OUTPUT_STRIDE;
  const before = Math.floor(pixel);
  return [before, Math.min(before + 1, cells - 1), pixel - before];
}

function averageHeatmaps(heatmap, mirrored, flipIndices) {
  const { height, width, channels } = heatmap;
  const flipped = [...flipIndices, channels - 1];
  const data = heatmap.data.map((value, index) => {
    const channel = index % channels;
    const column = Math.floor(index / channels) % width;
    const cell = Math.floor(index / channels) + width - 1 - 2 * column;
    return (value + mirrored.data[cell * channels + flipped[channel]]) / 2;
  });
  return { data, height, width, channels };
}

function meanScore(keypoints) {
  return keypoints.reduce((sum, { score }) => sum + score, 0) / keypoints.length;
}

function asPose(keypoints) {
  return { score: meanScore(keypoints), keypoints };
}

function bestFirst(poses) {
  return poses.sort((a, b) => b.score - a.score);
}
