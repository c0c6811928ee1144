// The offset head behind a network that ends at the heatmap and the head's features (graph `maps`). It is evaluated at
// the centers alone, with the result that the dense head has there: dekr_tf/inference/sparse_head.py.

// The taps of a 3x3 kernel, row by row.
const GRID = [-1, 0, 1].flatMap((y) => [-1, 0, 1].map((x) => ({ y, x })));

export class OffsetHead {
  /** @param {object} arrays - the content of offset_head.npz, see `fold_offset_head` in dekr_tf/models/folding.py */
  constructor({ sizes, order, dilation, ...arrays }) {
    this.order = order.data;
    this.branches = [];
    let start = 0;
    for (const size of sizes.data) {
      const prefix = `branches${size}/`;
      const named = Object.entries(arrays).filter(([name]) => name.startsWith(prefix));
      const [count, channels] = arrays[`${prefix}final_kernel`].shape;
      for (let index = 0; index < count; index++) {
        const weights = {};
        for (const [name, { data }] of named) {
          const length = data.length / count;
          weights[name.slice(prefix.length)] = data.subarray(index * length, (index + 1) * length);
        }
        this.branches.push({ start, channels, weights, dilation: dilation.data[0] });
        start += channels;
      }
    }
  }

  /**
   * The offsets at cells of a map.
   *
   * @param {{data: Float32Array, height: number, width: number, channels: number}} features - that enter the branches
   * @param {{row: number, column: number}[]} cells
   * @returns {Float32Array[]} of each cell 2 K: x and y of (cell minus keypoint) in map pixels
   */
  offsets(features, cells) {
    const found = cells.map(() => []);
    for (const branch of this.branches) {
      const evaluation = new BranchEvaluation(features, branch);
      cells.forEach((cell, index) => found[index].push(...evaluation.offsets(cell)));
    }
    return found.map((pairs) => {
      const offsets = new Float32Array(pairs.length);
      this.order.forEach((keypoint, place) => offsets.set(pairs.slice(2 * place, 2 * place + 2), 2 * keypoint));
      return offsets;
    });
  }
}

/** One branch on one map. What a block gives at a cell is computed once, however many cells need it. */
class BranchEvaluation {
  constructor(features, { start, channels, weights, dilation }) {
    Object.assign(this, { features, start, channels, weights, dilation });
    this.blocks = Object.keys(weights).filter((name) => name.startsWith('kernel')).length;
    this.computed = Array.from({ length: this.blocks }, () => new Map());
  }

  offsets({ row, column }) {
    const values = this.block(this.blocks - 1, row, column);
    return product(values, this.weights.final_kernel, this.weights.final_bias);
  }

  /** The output (C) of a block, or the features where `block` is -1, at a cell. */
  block(block, row, column) {
    const cell = row * this.features.width + column;
    if (block < 0) {
      const from = cell * this.features.channels + this.start;
      return this.features.data.subarray(from, from + this.channels);
    }
    const computed = this.computed[block];
    if (!computed.has(cell)) {
      const adaptive = `offset_kernel${block}` in this.weights;
      const taps = adaptive ? this.adaptiveTaps(block, row, column) : this.neighbors(block, row, column, this.dilation);
      const values = product(taps, this.weights[`kernel${block}`], this.weights[`bias${block}`]);
      const residual = this.block(block - 1, row, column);
      computed.set(cell, values.map((value, channel) => Math.max(value + residual[channel], 0)));
    }
    return computed.get(cell);
  }

  /** What enters a block at nine neighbors of a cell, zero outside the map: (9 C). */
  neighbors(block, row, column, distance) {
    const values = new Float32Array(9 * this.channels);
    GRID.forEach(({ y, x }, tap) => {
      this.add(values, tap, 1, block - 1, row + distance * y, column + distance * x);
    });
    return values;
  }

  /** What enters a block at the nine taps of an adaptive convolution (paper section 3.1), bilinear: (9 C). */
  adaptiveTaps(block, row, column) {
    const { height, width } = this.features;
    const near = this.neighbors(block, row, column, 1);
    const [yy, yx, xy, xx, ty, tx] = product(
      near,
      this.weights[`offset_kernel${block}`],
      this.weights[`offset_bias${block}`],
    );
    const values = new Float32Array(9 * this.channels);
    GRID.forEach(({ y, x }, tap) => {
      // Positions beyond the frame of one cell around the map read nothing, and need not be larger than that.
      const tapY = clamp(row + yy * y + yx * x + ty, -1, height);
      const tapX = clamp(column + xy * y + xx * x + tx, -1, width);
      const top = Math.floor(tapY);
      const left = Math.floor(tapX);
      const down = tapY - top;
      const right = tapX - left;
      this.add(values, tap, (1 - down) * (1 - right), block - 1, top, left);
      this.add(values, tap, (1 - down) * right, block - 1, top, left + 1);
      this.add(values, tap, down * (1 - right), block - 1, top + 1, left);
      this.add(values, tap, down * right, block - 1, top + 1, left + 1);
    });
    return values;
  }

  /** Adds a share of the output of a block at a cell to a tap; cells outside the map are zero. */
  add(values, tap, share, block, row, column) {
    const { height, width } = this.features;
    if (share === 0 || row < 0 || row >= height || column < 0 || column >= width) return;
    const added = this.block(block, row, column);
    const start = tap * this.channels;
    for (let channel = 0; channel < this.channels; channel++) values[start + channel] += share * added[channel];
  }
}

/** vector (N) @ kernel (N, M) + bias (M). */
function product(vector, kernel, bias) {
  const output = Float32Array.from(bias);
  const count = output.length;
  for (let input = 0; input < vector.length; input++) {
    const value = vector[input];
    if (value === 0) continue;
    for (let index = 0; index < count; index++) output[index] += value * kernel[input * count + index];
  }
  return output;
}

function clamp(value, lowest, highest) {
  return Math.min(Math.max(value, lowest), highest);
}
