import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';

import { InputError } from '../src/errors.js';
import { readModelFile } from '../src/model_file.js';
import { DATA, withData } from './data.js';

const read = (name) => new Uint8Array(readFileSync(new URL(name, DATA)));

test('settings and offset head are read from inside the file', withData, () => {
  const { settings, skeleton, head } = readModelFile(read('maps.tflite'));
  assert.equal(settings.decoder.keypoint_error, 2);
  assert.deepEqual(settings.artifact.input_sizes, [[64, 96], [96, 64]]);
  assert.deepEqual(skeleton.edges, [[0, 1], [0, 2], [0, 3]]);
  assert.deepEqual(skeleton.flipPairs, [[1, 2]]);
  assert.equal(head.branches.length, 4);
  assert.equal(readModelFile(read('float32.tflite')).head, null);
});

test('other files are refused in a sentence', withData, () => {
  const whole = read('maps.tflite');
  assert.throws(() => readModelFile(read('wide.jpg')), /^InputError: expected a \.tflite model/);
  assert.throws(() => readModelFile(new Uint8Array(0)), /^InputError: expected a \.tflite model/);
  assert.throws(() => readModelFile(read('without_settings.tflite')), /without its settings$/);
  // Cut off anywhere, the archive has no directory.
  assert.throws(() => readModelFile(whole.subarray(0, whole.length - 100)), /without its settings$/);
  const otherGraph = Buffer.from(read('float32.tflite'));
  otherGraph.write('"final"', otherGraph.lastIndexOf('"poses"'));
  assert.throws(() => readModelFile(otherGraph), /graph poses or maps. Received: graph final$/);
  const damaged = Buffer.from(whole);
  const entry = damaged.lastIndexOf('PK\x01\x02');
  damaged.fill(0xff, entry + 12, entry + 46);
  assert.throws(() => readModelFile(damaged), InputError);
});
