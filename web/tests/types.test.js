import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';

const read = (name) => readFileSync(new URL(`../src/${name}`, import.meta.url), 'utf-8');

test('the types are those of what the package exports', () => {
  const exported = [...read('index.js').matchAll(/export \{ (.*?) \}/g)].flatMap(([, names]) => names.split(', '));
  const declared = [...read('index.d.ts').matchAll(/^export (?:class|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(declared.sort(), exported.sort());
});
