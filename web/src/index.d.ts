/** A keypoint of a person. */
export interface Keypoint {
  /** Pixels of the photo from the middle of its top left pixel, to the right. */
  x: number;
  /** The same, downward. */
  y: number;
  /** Keypoint score, about 0 to 1. */
  score: number;
}

/** A person that was found. */
export interface Pose {
  /** Pose score, by which people are ranked, about 0 to 1. */
  score: number;
  /** K keypoints in the order of `Skeleton.names`. */
  keypoints: Keypoint[];
}

/** Which keypoints a person has and how they relate. */
export interface Skeleton {
  name: string;
  /** The names of the K keypoints. */
  names: string[];
  /** Pairs of indices joined by a limb. */
  edges: [number, number][];
  /** Pairs of indices that a mirror exchanges, the left one first. */
  flipPairs: [number, number][];
  /** K falloffs of the object keypoint similarity. */
  oksSigmas: number[];
}

/** What can be looked at: a file, the pixels, or what a page shows. */
export type Photo =
  | Blob
  | ImageData
  | HTMLImageElement
  | HTMLVideoElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | ImageBitmap;

/** Finds the people in photos with a `.tflite` file of `dekr export`, as `dekr_tf.PoseDetector` does in Python. */
export class PoseDetector {
  private constructor();

  /**
   * Opens a model. The graph `maps` runs on WebGPU where there is an adapter; all else runs on WASM, with threads where
   * the page is cross-origin isolated.
   *
   * @param model URL of the file, or its content.
   * @param options.wasm URL of the folder with LiteRT.js's WASM files (`node_modules/@litertjs/core/wasm/`), which are
   *   loaded once for the page.
   * @throws InputError: the file is missing, damaged or not of `dekr export`, or LiteRT.js cannot run it.
   */
  static open(model: string | URL | Blob | Uint8Array, options: { wasm: string }): Promise<PoseDetector>;

  /** Where the network runs. */
  readonly accelerator: 'webgpu' | 'wasm';
  /** Threads of the network on WASM. */
  readonly threads: number;
  readonly skeleton: Skeleton;
  /** The model's sidecar, which `dekr info` shows. */
  readonly settings: Record<string, any>;

  /**
   * Finds the people in a photo, or in the current frame of a video.
   *
   * @returns poses in pixels of the (upright) photo, best first.
   * @throws InputError: the browser cannot decode the file.
   */
  detect(photo: Photo): Promise<Pose[]>;

  /** Frees the network's memory. */
  close(): void;
}

/**
 * Draws skeletons: limbs orange on the person's left, blue on the right, else in a color of the person's own. Uncertain
 * keypoints are faded or left out; the pose score stands above the person.
 *
 * @param context of a canvas in pixels of the photo.
 */
export function drawPoses(
  context: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D,
  poses: Pose[],
  skeleton: Skeleton,
): void;

/** The color that `drawPoses` gives to a person, by place among the poses, for CSS. */
export function personColor(person: number): string;

/** Bad input. The message says what was expected and ends with what was received. */
export class InputError extends Error {}
