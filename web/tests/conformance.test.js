// The decoder gives what the files of tests/conformance say, as tests/test_conformance.py asks of those in Python.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import test from 'node:test';

import { DECODER_DEFAULTS, findCandidates, findCenters, keptCandidates, selectPoses } from '../src/decoder.js';
import { assertPosesEqual } from './poses.js';

const FOLDER = new URL('../../tests/conformance/', import.meta.url);
const FILES = readdirSync(FOLDER).filter((name) => name.endsWith('.json'));

assert.ok(FILES.length, `no cases in ${FOLDER}`);
for (const file of FILES) {
  const content = JSON.parse(readFileSync(new URL(file, FOLDER), 'utf-8'));
  const settings = { ...DECODER_DEFAULTS, ...content.settings };
  const heatmap = dense(content.heatmap);
  const mirrored = content.mirrored && {
    heatmap: dense(content.mirrored.heatmap),
    offsetsAt: lookUp(content.mirrored.offset),
    flipIndices: content.flip_indices,
  };
  const candidates = findCandidates(heatmap, lookUp(content.offset), settings, mirrored);

  test(`${file}: centers`, () => {
    if (mirrored) {
      assert.deepEqual(candidates.map(({ center }) => center), content.centers.map(([, , score]) => score));
      return;
    }
    const centers = findCenters(heatmap, settings).map(({ row, column, score }) => [row, column, score]);
    assert.deepEqual(centers, content.centers.map(([row, column, score]) => [row, column, Math.fround(score)]));
  });

  test(`${file}: kept candidates`, () => {
    assert.deepEqual(keptCandidates(candidates, settings), content.kept);
  });

  test(`${file}: poses`, () => {
    assertPosesEqual(selectPoses(candidates, settings), content.poses, { pixels: 1e-4, scores: 1e-6 });
  });
}

function dense({ shape: [height, width, channels], cells }) {
  const data = new Float32Array(height * width * channels);
  for (const [row, column, channel, value] of cells) data[(row * width + column) * channels + channel] = value;
  return { data, height, width, channels };
}

function lookUp(offset) {
  const { data, width, channels } = dense(offset);
  return (cells) => cells.map(({ row, column }) => data.slice((row * width + column) * channels).slice(0, channels));
}
