import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';

import { bestFit, letterbox, normalize, Placement } from '../src/preprocessing.js';
import { DATA, withData } from './data.js';

test('a photo is letterboxed as by OpenCV 5, bit by bit', withData, () => {
  for (const { photoSize, size, photo, pixels } of JSON.parse(readFileSync(new URL('letterboxes.json', DATA)))) {
    const [height, width] = photoSize;
    const data = new Uint8ClampedArray(4 * height * width).fill(255);
    photo.forEach((value, index) => (data[4 * Math.floor(index / 3) + (index % 3)] = value));
    assert.deepEqual([...letterbox({ data, width, height }, new Placement(photoSize, size))], pixels, `${photoSize}`);
  }
});

test('a photo gets the smallest input in which it is largest', () => {
  const sizes = [[128, 192], [64, 96], [96, 64], [64, 128]];
  assert.deepEqual(bestFit([100, 150], [[64, 128], [64, 96]]).size, [64, 96]);
  assert.deepEqual(bestFit([100, 150], sizes).size, [128, 192]);
  assert.deepEqual(bestFit([150, 100], [[64, 96], [96, 64]]).size, [96, 64]);
});

test('keypoints go back to the photo', () => {
  // Zoom 0.5; the photo's center (100, 51) lies at (64, 32).
  const placement = new Placement([101, 200], [64, 100]);
  assert.equal(placement.zoom, 0.5);
  assert.deepEqual(placement.toPhoto({ x: 50, y: 32, score: 0.25 }), { x: 100, y: 51, score: 0.25 });
  assert.deepEqual(placement.toPhoto({ x: 0, y: 6.5, score: 0.25 }), { x: 0, y: 0, score: 0.25 });
});

test('pixels are normalized channel by channel', () => {
  const normalized = normalize(Uint8Array.of(0, 255, 51, 102, 204, 0), [0, 0.5, 0.25], [1, 0.5, 0.25]);
  [0, 1, -0.2, 0.4, 0.6, -1].forEach((value, index) => assert.ok(Math.abs(normalized[index] - value) < 1e-6));
});
