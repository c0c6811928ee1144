// The offset head behind a network that ends at the heatmap and the head's features (graph `maps`). It is evaluated at
// the centers alone, with the result that the dense head has there: dekr_tf/inference/sparse_head.py.

// The taps of a 3x3 kernel, row by row.
const GRID = [-1, 0, 1].flatMap((y) => [-1, 0, 1].map((x) => ({ y, x })));

export class OffsetHead {
  /** @param {object} arrays - the content of offset_head.npz, see `fold_offset_head` in dekr_tf/models/folding.py */
  constructor(arrays) {
    this.order = arrays.order.data;
    this.branches = [];
    let start = 0;
    for (const size of arrays.sizes.data) {
      const [count, channels] = arrays[`branches${size}/final_kernel`].shape;
      for (let index = 0; index < count; index++) {
        this.branches.push({ start, channels, ...readBranch(arrays, `branches${size}/`, index) });
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

/** The weights of one branch of those under a prefix: of its blocks, and of the convolution behind them. */
function readBranch(arrays, prefix, index) {
  const weights = (name) => {
    const { data, shape } = arrays[prefix + name];
    const length = data.length / shape[0];
    return data.subarray(index * length, (index + 1) * length);
  };
  const layer = (name, suffix) => ({ kernel: weights(`${name}kernel${suffix}`), bias: weights(`${name}bias${suffix}`) });
  const blocks = [];
  for (let block = 0; `${prefix}kernel${block}` in arrays; block++) {
    const isAdaptive = `${prefix}offset_kernel${block}` in arrays;
    const offset = isAdaptive ? layer('offset_', block) : null;
    blocks.push({ ...layer('', block), offset, dilation: arrays.dilation.data[0] });
  }
  return { blocks, final: layer('final_', '') };
}

/** One branch on one map. What a block gives at a cell is computed once, however many cells need it. */
class BranchEvaluation {
  constructor(features, branch) {
    this.features = features;
    this.branch = branch;
    this.computed = branch.blocks.map(() => new Map());
  }

  offsets({ row, column }) {
    const { blocks, final } = this.branch;
    return product(this.block(blocks.length - 1, row, column), final.kernel, final.bias);
  }

  /** The output (C) of a block, or the features where `block` is -1, at a cell. */
  block(block, row, column) {
    const { blocks, channels } = this.branch;
    if (block < 0) {
      const from = this.position(row, column);
      return this.features.data.subarray(from, from + channels);
    }
    const cell = this.position(row, column);
    const known = this.computed[block].get(cell);
    if (known) return known;
    const { kernel, bias, dilation, offset } = blocks[block];
    const taps = offset ? this.adaptiveTaps(block, row, column) : this.neighbors(block, row, column, dilation);
    const values = product(taps, kernel, bias);
    const residual = this.block(block - 1, row, column);
    for (let channel = 0; channel < channels; channel++) {
      values[channel] = Math.max(values[channel] + residual[channel], 0);
    }
    this.computed[block].set(cell, values);
    return values;
  }

  /** Where the branch's features of a cell begin. */
  position(row, column) {
    return (row * this.features.width + column) * this.features.channels + this.branch.start;
  }

  /** What enters a block at nine neighbors of a cell, zero outside the map: (9 C). */
  neighbors(block, row, column, distance) {
    const values = new Float32Array(GRID.length * this.branch.channels);
    for (let tap = 0; tap < GRID.length; tap++) {
      this.add(values, tap, 1, block - 1, row + distance * GRID[tap].y, column + distance * GRID[tap].x);
    }
    return values;
  }

  /** What enters a block at the nine taps of an adaptive convolution (paper section 3.1), bilinear: (9 C). */
  adaptiveTaps(block, row, column) {
    const { height, width } = this.features;
    const { kernel, bias } = this.branch.blocks[block].offset;
    const [yy, yx, xy, xx, ty, tx] = product(this.neighbors(block, row, column, 1), kernel, bias);
    const values = new Float32Array(GRID.length * this.branch.channels);
    for (let tap = 0; tap < GRID.length; tap++) {
      const { y, x } = GRID[tap];
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
    }
    return values;
  }

  /** Adds a share of the output of a block at a cell to a tap; cells outside the map are zero. */
  add(values, tap, share, block, row, column) {
    const { height, width } = this.features;
    if (share === 0 || row < 0 || row >= height || column < 0 || column >= width) return;
    const { channels } = this.branch;
    // A view of the features for each of the many taps that read them would take most of the time.
    const added = block < 0 ? this.features.data : this.block(block, row, column);
    const from = block < 0 ? this.position(row, column) : 0;
    for (let channel = 0; channel < channels; channel++) {
      values[tap * channels + channel] += share * added[from + channel];
    }
  }
}

/** vector (N) @ kernel (N, M) + bias (M). */
function product(vector, kernel, bias) {
  const count = bias.length;
  const output = new Float32Array(count);
  for (let index = 0; index < count; index++) {
    let sum = bias[index];
    for (let input = 0; input < vector.length; input++) sum += vector[input] * kernel[input * count + index];
    output[index] = sum;
  }
  return output;
}

function clamp(value, lowest, highest) {
  return Math.min(Math.max(value, lowest), highest);
}
