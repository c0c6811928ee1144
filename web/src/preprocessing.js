// From a photo to the network's input, bit by bit as dekr_tf/preprocessing.py does it with OpenCV 5.
//
// Coordinates are (x, y) with (0, 0) the middle of the top left pixel. Sizes are [height, width].

const f32 = Math.fround;

/** Where a photo sits in the network's input: input = zoom * photo + (left, top). */
export class Placement {
  /**
   * As large as fits, centered. The center is rounded to a whole pixel, as the reference implementation does.
   *
   * @param {[number, number]} photoSize
   * @param {[number, number]} size - of the network's input
   */
  constructor([photoHeight, photoWidth], size) {
    const [height, width] = size;
    this.size = size;
    this.zoom = Math.min(height / photoHeight, width / photoWidth);
    this.left = width / 2 - this.zoom * Math.floor(photoWidth / 2 + 0.5);
    this.top = height / 2 - this.zoom * Math.floor(photoHeight / 2 + 0.5);
  }

  /** Takes a keypoint from pixels of the network's input to pixels of the photo. */
  toPhoto({ x, y, score }) {
    return { x: (x - this.left) / this.zoom, y: (y - this.top) / this.zoom, score };
  }
}

/** The placement in the smallest of the network's inputs in which a photo can be largest. */
export function bestFit(photoSize, sizes) {
  const area = ({ size: [height, width] }) => height * width;
  const placements = sizes.map((size) => new Placement(photoSize, size));
  return placements.sort((a, b) => b.zoom - a.zoom || area(a) - area(b))[0];
}

/**
 * Resizes a photo into the network's input, black where the photo does not reach.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} photo - RGBA, such as an ImageData
 * @param {Placement} placement
 * @returns {Uint8Array} (H, W, 3) RGB
 */
export function letterbox(photo, placement) {
  const [height, width] = placement.size;
  // The inverse as OpenCV computes it, in double precision; the rest of the arithmetic is in single precision.
  const determinant = 1 / (placement.zoom * placement.zoom);
  const step = placement.zoom * determinant;
  const columns = sourcePositions(width, step, -step * placement.left);
  const rows = sourcePositions(height, step, -step * placement.top);
  const output = new Uint8Array(height * width * 3);
  let index = 0;
  for (let y = 0; y < height; y++) {
    const top = rows.before[y];
    const topInside = top >= 0 && top < photo.height;
    const bottomInside = top + 1 >= 0 && top + 1 < photo.height;
    for (let x = 0; x < width; x++) {
      const left = columns.before[x];
      const leftInside = left >= 0 && left < photo.width;
      const rightInside = left + 1 >= 0 && left + 1 < photo.width;
      const pixel = 4 * (top * photo.width + left);
      const below = pixel + 4 * photo.width;
      for (let channel = 0; channel < 3; channel++) {
        const a = topInside && leftInside ? photo.data[pixel + channel] : 0;
        const b = topInside && rightInside ? photo.data[pixel + 4 + channel] : 0;
        const c = bottomInside && leftInside ? photo.data[below + channel] : 0;
        const d = bottomInside && rightInside ? photo.data[below + 4 + channel] : 0;
        const upper = f32(a + f32(columns.share[x] * (b - a)));
        const lower = f32(c + f32(columns.share[x] * (d - c)));
        output[index++] = roundHalfToEven(f32(upper + f32(rows.share[y] * f32(lower - upper))));
      }
    }
  }
  return output;
}

/**
 * Normalizes RGB as (value / 255 - mean) / std.
 *
 * @param {Uint8Array} pixels - (H, W, 3)
 * @param {number[]} mean - of RGB in 0..1
 * @param {number[]} std
 * @returns {Float32Array} (H, W, 3)
 */
export function normalize(pixels, mean, std) {
  const tables = mean.map((value, channel) => {
    const scale = f32(1 / f32(255 * f32(std[channel])));
    const shift = f32(-f32(value) / f32(std[channel]));
    return Float32Array.from({ length: 256 }, (_, level) => f32(f32(level * scale) + shift));
  });
  const normalized = new Float32Array(pixels.length);
  for (let index = 0; index < pixels.length; index++) normalized[index] = tables[index % 3][pixels[index]];
  return normalized;
}

/** For each output pixel along an axis, the source pixel before it and how far it is on the way to the next one. */
function sourcePositions(count, step, start) {
  const before = new Int32Array(count);
  const share = new Float32Array(count);
  for (let index = 0; index < count; index++) {
    const position = f32(f32(index * f32(step)) + f32(start));
    before[index] = Math.floor(position);
    share[index] = position - before[index];
  }
  return { before, share };
}

function roundHalfToEven(value) {
  const rounded = Math.floor(value + 0.5);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
