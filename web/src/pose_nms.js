/**
 * Pose NMS: of candidates that agree in most keypoints, one stays (step 4 of docs/decoding.md).
 *
 * @param {{x: number, y: number}[][]} poses - K keypoints of each candidate, in the order of the walk
 * @param {number[]} scores - what decides within a group
 * @param {number} distance - fraction of the diagonal of a candidate's box within which keypoints are near
 * @param {number} minKeypoints - number of near keypoints that must be exceeded
 * @returns {number[]} the candidates to keep, in the order in which they were kept
 */
export function poseNms(poses, scores, distance, minKeypoints) {
  const groups = poses.map((pose, index) => {
    const limit = (distance * diagonal(pose)) ** 2;
    return [...poses.keys()].filter((other) => other === index || countNear(pose, poses[other], limit) > minKeypoints);
  });
  const suppressed = new Set();
  const kept = [];
  groups.forEach((group, index) => {
    const best = group.reduce((first, other) => (scores[other] > scores[first] ? other : first));
    if (suppressed.has(index) || suppressed.has(best)) return;
    kept.push(best);
    group.forEach((other) => suppressed.add(other));
  });
  return kept;
}

/** Width and height of the box around keypoints. */
export function extent(keypoints) {
  const range = (values) => Math.max(...values) - Math.min(...values);
  return [range(keypoints.map(({ x }) => x)), range(keypoints.map(({ y }) => y))];
}

function diagonal(keypoints) {
  return Math.hypot(...extent(keypoints));
}

function countNear(pose, other, limit) {
  return pose.filter(({ x, y }, k) => (x - other[k].x) ** 2 + (y - other[k].y) ** 2 <= limit).length;
}
