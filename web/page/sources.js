// Video files and cameras as <video> elements, which end with a signal.

import { InputError } from 'dekr-pose';

const CAMERA_ERRORS = {
  NotFoundError: 'No camera was found. Connect one and try again.',
  NotAllowedError: 'The browser may not use the camera. Allow it for this page and try again.',
  NotReadableError: 'The camera cannot be opened; another program may be using it.',
};

/**
 * Opens a video file, muted, at its first frame.
 *
 * @param {File} file
 * @param {AbortSignal} signal
 * @returns {Promise<HTMLVideoElement>}
 * @throws {InputError} the browser cannot play it
 */
export async function openVideo(file, signal) {
  const url = URL.createObjectURL(file);
  const video = makeVideo(signal);
  signal.addEventListener('abort', () => URL.revokeObjectURL(url));
  video.src = url;
  try {
    await firstFrame(video);
  } catch {
    throw new InputError(`expected a video that this browser plays, such as MP4 or WebM. Received: ${file.name}`);
  }
  return video;
}

/**
 * Turns on the camera.
 *
 * @param {AbortSignal} signal
 * @returns {Promise<HTMLVideoElement>}
 * @throws {InputError} there is none, or the page may not use it
 */
export async function openCamera(signal) {
  if (!navigator.mediaDevices) {
    throw new InputError('Browsers give the camera to pages on https and on localhost only.');
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'user' } });
  } catch (error) {
    throw new InputError(CAMERA_ERRORS[error.name] ?? `The camera cannot be opened: ${error.message}`);
  }
  const stop = () => stream.getTracks().forEach((track) => track.stop());
  if (signal.aborted) stop();
  signal.addEventListener('abort', stop);
  const video = makeVideo(signal);
  video.srcObject = stream;
  await video.play();
  return video;
}

/** Waits for the next frame of a video; false if the signal comes first. */
export function nextFrame(video, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(false);
    signal.addEventListener('abort', () => resolve(false), { once: true });
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(() => resolve(true));
    else requestAnimationFrame(() => resolve(true));
  });
}

function makeVideo(signal) {
  const video = document.createElement('video');
  Object.assign(video, { muted: true, playsInline: true });
  signal.addEventListener('abort', () => video.pause());
  return video;
}

function firstFrame(video) {
  return new Promise((resolve, reject) => {
    video.addEventListener('loadeddata', () => (video.videoWidth ? resolve() : reject()), { once: true });
    video.addEventListener('error', reject, { once: true });
  });
}
