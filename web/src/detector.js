import { candidatesOf, finalPoses, findCandidates, selectPoses } from './decoder.js';
import { LiteRtEngine } from './engine.js';
import { InputError } from './errors.js';
import { readModelFile } from './model_file.js';
import { readPixels } from './photo.js';
import { bestFit, letterbox, normalize } from './preprocessing.js';

/** Finds the people in photos with a `.tflite` file of `dekr export`, as `dekr_tf.PoseDetector` does. */
export class PoseDetector {
  static async open(model, { wasm }) {
    const bytes = await readBytes(model);
    const file = readModelFile(bytes);
    return new PoseDetector(file, await LiteRtEngine.open(bytes, file.settings.artifact, wasm));
  }

  constructor({ settings, skeleton, head }, engine) {
    Object.assign(this, { settings, skeleton, head, engine });
    this.idle = Promise.resolve();
  }

  get accelerator() {
    return this.engine.accelerator;
  }

  get threads() {
    return this.engine.threads;
  }

  detect(source) {
    // The network works in memory of its own, for one caller at a time.
    const poses = this.idle.then(() => this.detectAlone(source));
    this.idle = poses.catch(() => {});
    return poses;
  }

  close() {
    this.idle.then(() => this.engine.close());
  }

  async detectAlone(source) {
    const { artifact, mean, std, decoder } = this.settings;
    const photo = await readPixels(source);
    const placement = bestFit([photo.height, photo.width], artifact.input_sizes);
    const pixels = letterbox(photo, placement);
    const input = artifact.input_type === 'uint8' ? pixels : normalize(pixels, mean, std);
    const outputs = await this.engine.run(input, placement.size);
    const poses = artifact.final
      ? finalPoses(outputs.keypoints.data, outputs.scores.data, outputs.num_poses.data[0])
      : selectPoses(this.candidates(outputs), decoder, this.skeleton.oksSigmas);
    return poses.map(({ score, keypoints }) => ({
      score,
      keypoints: keypoints.map((keypoint) => placement.toPhoto(keypoint)),
    }));
  }

  candidates(outputs) {
    if (!this.head) {
      const { keypoints, keypoint_scores, center_scores } = outputs;
      return candidatesOf(keypoints.data, keypoint_scores.data, center_scores.data);
    }
    const features = asMap(outputs.features);
    return findCandidates(asMap(outputs.heatmap), (cells) => this.head.offsets(features, cells), this.settings.decoder);
  }
}

async function readBytes(model) {
  if (model instanceof Uint8Array) return model;
  if (model instanceof Blob) return new Uint8Array(await model.arrayBuffer());
  const response = await fetch(model);
  if (!response.ok) throw new InputError(`expected a model at ${model}. Received: HTTP status ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

function asMap({ data, shape: [, height, width, channels] }) {
  return { data, height, width, channels };
}
