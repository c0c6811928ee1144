import { readArchive, readNpz, text } from './archive.js';
import { DECODER_DEFAULTS } from './decoder.js';
import { InputError } from './errors.js';
import { OffsetHead } from './offset_head.js';

const GRAPHS = ['poses', 'maps'];
const SIDECAR_VERSION = 1;

/**
 * Reads what `dekr export` put into a `.tflite` file behind the network.
 *
 * @param {Uint8Array} bytes - the file
 * @returns {{settings: object, skeleton: object, head: OffsetHead | null}} the sidecar; the skeleton with pairs of
 *   indices; and, of the graph `maps`, the offset head
 * @throws {InputError} it is not a file that `dekr export` wrote, or it is damaged
 */
export function readModelFile(bytes) {
  if (text(bytes.subarray(4, 8)) !== 'TFL3') {
    throw new InputError('expected a .tflite model. Received: a file of another kind');
  }
  try {
    return readMembers(readArchive(bytes));
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(`expected a whole .tflite model of dekr export. Received: a damaged file (${error.message})`);
  }
}

function readMembers(members) {
  if (!members.has('sidecar.json')) {
    throw new InputError('expected a model that dekr export wrote. Received: a .tflite file without its settings');
  }
  const settings = JSON.parse(text(members.get('sidecar.json')));
  if (settings.version !== SIDECAR_VERSION) {
    throw new InputError(`settings: expected version ${SIDECAR_VERSION}. Received: ${settings.version}`);
  }
  const { graph } = settings.artifact;
  if (!GRAPHS.includes(graph)) {
    throw new InputError(`expected a model with the graph ${GRAPHS.join(' or ')}. Received: graph ${graph}`);
  }
  settings.decoder = { ...DECODER_DEFAULTS, ...settings.decoder };
  const head = graph === 'maps' ? new OffsetHead(readNpz(members.get('offset_head.npz'))) : null;
  return { settings, skeleton: readSkeleton(settings.keypoints), head };
}

function readSkeleton({ name, names, oks_sigmas: oksSigmas, ...pairs }) {
  const byIndex = (list) => list.map((pair) => pair.map((keypoint) => names.indexOf(keypoint)));
  return { name, names, oksSigmas, edges: byIndex(pairs.edges), flipPairs: byIndex(pairs.flip_pairs) };
}
