import { InputError } from './errors.js';

let canvas;

/**
 * The pixels of a photo or of a video's current frame.
 *
 * @param {import('./index.d.ts').Photo} source - a file is turned upright as its EXIF entry says
 * @returns {Promise<ImageData>} RGBA
 * @throws {InputError} the browser cannot decode it
 */
export async function readPixels(source) {
  if (source instanceof ImageData) return source;
  if (source instanceof Blob) return readPixels(await decode(source));
  const width = source.videoWidth ?? source.naturalWidth ?? source.width;
  const height = source.videoHeight ?? source.naturalHeight ?? source.height;
  if (!width || !height) throw new InputError('expected a photo or video with pixels. Received: one that has not loaded');
  canvas ??= new OffscreenCanvas(width, height);
  // Setting a size clears the canvas, which a source with transparent parts needs.
  Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

async function decode(file) {
  try {
    // Values as stored: Python does not convert color profiles either.
    return await createImageBitmap(file, { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
  } catch {
    const name = file.name ?? 'a file';
    throw new InputError(`expected a photo in a format that this browser reads, such as JPEG. Received: ${name}`);
  }
}
