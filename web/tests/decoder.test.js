import assert from 'node:assert/strict';
import test from 'node:test';

import { candidatesOf, DECODER_DEFAULTS, discountScores, finalPoses, selectPoses } from '../src/decoder.js';

test('a known keypoint error discounts small people', () => {
  // 0.53 * 40 * 40 * (2 * 0.5)^2 = 848, and 8.48 of a tenth of the side.
  const person = (side) => [{ x: 0, y: 0, score: 1 }, { x: side, y: side, score: 0.5 }];
  const discounted = (side) => discountScores(person(side), 2, [0.5, 0.5]).map(({ score }) => score);
  assert.deepEqual(discounted(40), [848 / 852, (0.5 * 848) / 852]);
  discounted(4).forEach((score, k) => assert.ok(Math.abs(score - (8.48 / 12.48) * [1, 0.5][k]) < 1e-12));
});

test('a discount changes the order', () => {
  const small = { center: 1, keypoints: [{ x: 0, y: 0, score: 0.6 }, { x: 4, y: 4, score: 0.6 }] };
  const large = { center: 1, keypoints: [{ x: 50, y: 0, score: 0.5 }, { x: 90, y: 40, score: 0.5 }] };
  const widths = (settings) =>
    selectPoses([small, large], { ...DECODER_DEFAULTS, ...settings }, [0.5, 0.5]).map(
      ({ keypoints }) => keypoints[1].x - keypoints[0].x,
    );
  assert.deepEqual(widths({}), [4, 40]);
  assert.deepEqual(widths({ keypoint_error: 2 }), [40, 4]);
});

test('empty places of the graph, and values that are not finite, are no people', () => {
  const keypoints = Float32Array.of(1, 2, 30, 40, NaN, 0, 1, 1, 0, 0, 0, 0);
  const candidates = candidatesOf(keypoints, Float32Array.of(0.5, 0.25, 0.5, 0.5, 0, 0), Float32Array.of(1, 0.5, 0));
  assert.deepEqual(selectPoses(candidates, DECODER_DEFAULTS), [
    { score: 0.375, keypoints: [{ x: 1, y: 2, score: 0.5 }, { x: 30, y: 40, score: 0.25 }] },
  ]);
});

test('final poses are taken as they are, up to their number', () => {
  const keypoints = Float32Array.of(1, 2, 0.5, 30, 40, 0.25, 5, 6, 0.25, 7, 8, 0.5, 0, 0, 0, 0, 0, 0);
  assert.deepEqual(finalPoses(keypoints, Float32Array.of(0.375, 0.25, 0), 2), [
    { score: 0.375, keypoints: [{ x: 1, y: 2, score: 0.5 }, { x: 30, y: 40, score: 0.25 }] },
    { score: 0.25, keypoints: [{ x: 5, y: 6, score: 0.25 }, { x: 7, y: 8, score: 0.5 }] },
  ]);
});
