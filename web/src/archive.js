// Reading zip archives and NumPy's .npz files as `dekr export` writes them: members are stored, not compressed.

import { InputError } from './errors.js';

const END_OF_DIRECTORY = 0x06054b50;
const END_SIZE = 22;
const LONGEST_COMMENT = 0xffff;

const DTYPES = {
  '<f4': (buffer) => new Float32Array(buffer),
  '<i8': (buffer) => Float64Array.from(new BigInt64Array(buffer), Number),
};

/**
 * Lists the members of a zip archive, which may lie behind other data, as it does in a `.tflite` file.
 *
 * @param {Uint8Array} bytes
 * @returns {Map<string, Uint8Array>} the content of each member by name; empty where there is no archive
 */
export function readArchive(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const members = new Map();
  const end = findEnd(view);
  if (end < 0) return members;
  const count = view.getUint16(end + 10, true);
  let entry = end - view.getUint32(end + 12, true);
  // Positions in the directory count from the start of the archive, or from that of the file.
  const start = entry - view.getUint32(end + 16, true);
  for (let index = 0; index < count; index++) {
    const method = view.getUint16(entry + 10, true);
    const size = view.getUint32(entry + 20, true);
    const nameLength = view.getUint16(entry + 28, true);
    const name = text(bytes.subarray(entry + 46, entry + 46 + nameLength));
    if (method !== 0) throw new InputError(`expected ${name} to be stored uncompressed. Received: method ${method}`);
    const local = start + view.getUint32(entry + 42, true);
    const content = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    members.set(name, bytes.subarray(content, content + size));
    entry += 46 + nameLength + view.getUint16(entry + 30, true) + view.getUint16(entry + 32, true);
  }
  return members;
}

/**
 * Reads an `.npz` file of float32 and int64 arrays.
 *
 * @param {Uint8Array} bytes
 * @returns {Object<string, {shape: number[], data: Float32Array | Float64Array}>} the arrays by name, row by row
 */
export function readNpz(bytes) {
  const arrays = {};
  for (const [name, content] of readArchive(bytes)) arrays[name.replace(/\.npy$/, '')] = readNpy(content, name);
  return arrays;
}

export function text(bytes) {
  return new TextDecoder().decode(bytes);
}

function findEnd(view) {
  const first = Math.max(0, view.byteLength - END_SIZE - LONGEST_COMMENT);
  for (let position = view.byteLength - END_SIZE; position >= first; position--) {
    if (view.getUint32(position, true) === END_OF_DIRECTORY) return position;
  }
  return -1;
}

// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0
function readNpy(bytes, name) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint16(8, true);
  const header = text(bytes.subarray(10, 10 + length));
  const [, dtype] = /'descr': '([^']+)'/.exec(header);
  const [, shape] = /'shape': \(([^)]*)\)/.exec(header);
  if (!(dtype in DTYPES) || header.includes("'fortran_order': True")) {
    throw new InputError(`${name}: expected float32 or int64, row by row. Received: ${header.trim()}`);
  }
  // Typed arrays begin at multiples of their item's size, so the content is copied.
  return { shape: shape.split(',').filter(Boolean).map(Number), data: DTYPES[dtype](bytes.slice(10 + length).buffer) };
}
