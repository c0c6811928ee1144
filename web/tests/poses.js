import assert from 'node:assert/strict';

/** Compares poses {score, keypoints: {x, y, score}[]} with expected {score, keypoints: [x, y, score][]}. */
export function assertPosesEqual(poses, expected, { pixels, scores }) {
  assert.equal(poses.length, expected.length, 'number of poses');
  poses.forEach((pose, index) => {
    assertClose(pose.score, expected[index].score, scores, `score of pose ${index}`);
    assert.equal(pose.keypoints.length, expected[index].keypoints.length, 'number of keypoints');
    pose.keypoints.forEach(({ x, y, score }, k) => {
      const [expectedX, expectedY, expectedScore] = expected[index].keypoints[k];
      assertClose(x, expectedX, pixels, `x of keypoint ${k} of pose ${index}`);
      assertClose(y, expectedY, pixels, `y of keypoint ${k} of pose ${index}`);
      assertClose(score, expectedScore, scores, `score of keypoint ${k} of pose ${index}`);
    });
  });
}

function assertClose(value, expected, tolerance, what) {
  assert.ok(Math.abs(value - expected) <= tolerance, `${what}: expected ${expected}, received ${value}`);
}
