import { InputError, PoseDetector } from 'dekr-pose';

import { openCamera, openVideo, nextFrame } from './sources.js';
import { View } from './view.js';

const WASM = new URL('litert/wasm/', import.meta.url).href;

const view = new View(document);
const { file, camera, pause, save, model, stage } = view.elements;

let detector = null;
/** Ends what is being shown when something else is opened. */
let session = new AbortController();

async function loadModel(source, name) {
  view.announce('Loading the model…');
  const opened = await PoseDetector.open(source, { wasm: WASM });
  detector?.close();
  detector = opened;
  view.showModel(detector, name);
  view.announce('Ready: choose a photo or a video, or turn on the webcam.');
  file.disabled = camera.disabled = false;
}

/** The site's model for this browser: the graph `maps` is for WebGPU, `poses` for WASM. */
async function loadSiteModel() {
  const models = await (await fetch('models.json')).json();
  const wanted = (await navigator.gpu?.requestAdapter()) ? 'maps' : 'poses';
  const chosen = models.find(({ graph }) => graph === wanted) ?? models[0];
  await loadModel(`models/${chosen.graph}/${encodeURIComponent(chosen.file)}`, chosen.file);
}

async function showPhoto(photo, signal) {
  const start = performance.now();
  const poses = await detector.detect(photo);
  const milliseconds = performance.now() - start;
  const picture = await createImageBitmap(photo);
  if (signal.aborted) return;
  view.showTime(milliseconds);
  view.show(picture, poses, photo.name);
  view.announcePeople();
}

async function follow(video, name, signal) {
  const frame = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  const context = frame.getContext('2d', { willReadFrequently: true });
  view.startClock();
  do {
    // A phone that is turned changes the size.
    if (frame.width !== video.videoWidth || frame.height !== video.videoHeight) {
      Object.assign(frame, { width: video.videoWidth, height: video.videoHeight });
    }
    context.drawImage(video, 0, 0);
    const poses = await detector.detect(context.getImageData(0, 0, frame.width, frame.height));
    if (signal.aborted) return;
    view.showFrameRate();
    view.show(frame, poses, name);
    if (!video.ended) view.announcePeopleNowAndThen();
  } while (await nextFrame(video, signal));
}

async function showVideo(chosen, signal) {
  const video = await openVideo(chosen, signal);
  showPause(video, signal);
  video.addEventListener('ended', () => view.announce('The video has ended.'), { signal });
  await video.play();
  await follow(video, chosen.name, signal);
}

async function showCamera(signal) {
  const video = await openCamera(signal);
  camera.setAttribute('aria-pressed', 'true');
  view.announce('The webcam is on.');
  signal.addEventListener('abort', () => camera.setAttribute('aria-pressed', 'false'));
  const [track] = video.srcObject.getTracks();
  track.addEventListener('ended', () => attempt(() => Promise.reject(new InputError('The camera was disconnected.'))));
  await follow(video, 'webcam', signal);
}

function showPause(video, signal) {
  pause.hidden = false;
  signal.addEventListener('abort', () => (pause.hidden = true));
  const update = () => (pause.textContent = video.paused ? 'Play' : 'Pause');
  for (const event of ['play', 'pause', 'ended']) video.addEventListener(event, update, { signal });
  pause.addEventListener('click', () => (video.paused ? video.play() : video.pause()), { signal });
}

/** Ends what is being shown, runs an action, and says what went wrong in a sentence. */
async function attempt(action) {
  session.abort();
  session = new AbortController();
  const { signal } = session;
  view.clearError();
  try {
    await action(signal);
  } catch (error) {
    if (signal.aborted) return;
    session.abort();
    if (!(error instanceof InputError)) console.error(error);
    view.showError(error);
  }
}

function open(chosen) {
  if (!chosen || !detector) return;
  view.announce('Looking for people…');
  attempt((signal) => (chosen.type.startsWith('video/') ? showVideo(chosen, signal) : showPhoto(chosen, signal)));
}

/** Calls a function with the file that was chosen, also if it is the same one again. */
function onChoice(input, use) {
  input.addEventListener('change', () => {
    const [chosen] = input.files;
    input.value = '';
    if (chosen) use(chosen);
  });
}

onChoice(file, open);
onChoice(model, (chosen) => attempt(() => loadModel(chosen, chosen.name)));
camera.addEventListener('click', () => {
  const isOn = camera.getAttribute('aria-pressed') === 'true';
  attempt(isOn ? async () => view.announce('The webcam is off.') : showCamera);
});
save.addEventListener('click', () => view.save());
stage.addEventListener('dragover', (event) => {
  event.preventDefault();
  stage.classList.add('target');
});
stage.addEventListener('dragleave', () => stage.classList.remove('target'));
stage.addEventListener('drop', (event) => {
  event.preventDefault();
  stage.classList.remove('target');
  open(event.dataTransfer.files[0]);
});

attempt(loadSiteModel);
