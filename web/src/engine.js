import { loadAndCompile, loadLiteRt, Tensor } from '@litertjs/core';

import { InputError } from './errors.js';

let runtime;

/** Runs the network of a `.tflite` file with LiteRT.js: the graph `maps` on WebGPU where that works, else on WASM. */
export class LiteRtEngine {
  /**
   * @param {Uint8Array} bytes - the file
   * @param {{graph: string, input_sizes: [number, number][]}} artifact - of the sidecar
   * @param {string} wasm - URL of the folder with LiteRT.js's WASM files
   * @throws {InputError} LiteRT.js cannot run it
   */
  static async open(bytes, artifact, wasm) {
    runtime ??= load(wasm);
    const { liteRtWasm } = await runtime;
    if (artifact.graph === 'maps' && (await navigator.gpu?.requestAdapter())) {
      const engine = await openOnGpu(bytes, artifact);
      if (engine) return engine;
    }
    try {
      const model = await loadAndCompile(bytes, { accelerator: 'wasm' });
      return new LiteRtEngine(model, artifact, 'wasm', liteRtWasm.getThreadCount());
    } catch (error) {
      throw new InputError(`expected a model that LiteRT.js can run. Received: ${reason(error)}`);
    }
  }

  constructor(model, artifact, accelerator, threads) {
    Object.assign(this, { model, artifact, accelerator, threads });
  }

  /**
   * @param {Float32Array | Uint8Array} pixels - (H, W, 3)
   * @param {[number, number]} size - H and W
   * @returns {Promise<Object<string, {data: Float32Array, shape: number[]}>>} the outputs by name
   */
  async run(pixels, [height, width]) {
    let image = new Tensor(pixels, [1, height, width, 3]);
    if (this.accelerator === 'webgpu') image = await image.moveTo('webgpu');
    const single = this.artifact.input_sizes.length === 1;
    const runner = single ? this.model : this.model.signatures[`${height}x${width}`];
    const tensors = await runner.run({ image });
    image.delete();
    const outputs = {};
    for (const [name, tensor] of Object.entries(tensors)) {
      outputs[name] = { data: await tensor.data(), shape: [...tensor.type.layout.dimensions] };
      tensor.delete();
    }
    return outputs;
  }

  close() {
    this.model.delete();
  }
}

/** LiteRT.js is loaded once for the whole page, with threads where the page and the browser allow them. */
async function load(wasm) {
  if (globalThis.crossOriginIsolated) {
    try {
      return await loadLiteRt(wasm, { threads: true });
    } catch {
      // Safari, for one, lacks the instructions that the build with threads needs.
    }
  }
  try {
    return await loadLiteRt(wasm);
  } catch (error) {
    runtime = undefined;
    throw new InputError(`expected LiteRT.js's WASM files in ${wasm}. Received: ${reason(error)}`);
  }
}

async function openOnGpu(bytes, artifact) {
  let model;
  try {
    // In half precision, heatmaps would have plateaus in place of peaks.
    model = await loadAndCompile(bytes, { accelerator: 'webgpu', gpuOptions: { precision: 'fp32' } });
    const engine = new LiteRtEngine(model, artifact, 'webgpu', 0);
    const [height, width] = artifact.input_sizes[0];
    const Pixels = artifact.input_type === 'uint8' ? Uint8Array : Float32Array;
    // Some operators fail only when they run.
    if (model.isFullyAccelerated) {
      await engine.run(new Pixels(height * width * 3), [height, width]);
      return engine;
    }
  } catch (error) {
    console.warn('The network cannot run on WebGPU:', error);
  }
  model?.delete();
  return null;
}

function reason(error) {
  return String(error?.message ?? error).replace(/\s+/g, ' ').slice(0, 300);
}
