// The page in a real Chromium, as `dekr web` serves and writes it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import test, { after, before } from 'node:test';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

import { DATA, withData } from './data.js';
import { assertPosesEqual } from './poses.js';

const PYTHON = process.env.PYTHON ?? 'python3';
const ROOT = new URL('../../', import.meta.url);
/** Milliseconds. Machines that test are slow and busy. */
const PATIENCE = 240_000;
const POSES = { pixels: 0.001, scores: 1e-5 };

const FAKE_CAMERA = ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'];
// WebGPU on the processor.
const SOFTWARE_GPU = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];

const expected = DATA && JSON.parse(readFileSync(path('expected.json')));
const PHOTOS = expected && Object.keys(expected.float32);
const running = [];
/** Where the page finds LiteRT.js. */
const [IMPORT_MAP] = /<script type="importmap">.*?<\/script>/s.exec(
  readFileSync(new URL('web/page/index.html', ROOT), 'utf-8'),
);
let server;

function path(name) {
  return fileURLToPath(new URL(name, DATA));
}

/** Starts a program that serves, and gives the address that its first line names. */
async function serve(...command) {
  const program = spawn(PYTHON, ['-u', ...command], { cwd: ROOT, stdio: ['ignore', 'pipe', 'ignore'] });
  running.push(program);
  const ended = once(program, 'exit').then(([code]) => assert.fail(`${command} ended with code ${code}`));
  const [line] = await Promise.race([once(createInterface({ input: program.stdout }), 'line'), ended]);
  ended.catch(() => {});
  const [, port] = /(?:port |localhost:)(\d+)/.exec(line);
  return `http://localhost:${port}/`;
}

/** Opens the page in a browser of its own, and waits for the model. */
async function open(url, flags = [], viewport = { width: 1280, height: 800 }) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage', ...flags],
    timeout: PATIENCE,
  });
  running.push({ kill: () => browser.close() });
  const page = await browser.newPage({ viewport });
  page.setDefaultTimeout(PATIENCE);
  page.elsewhere = [];
  page.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('blob:')) page.elsewhere.push(request.url());
  });
  await page.goto(url);
  await page.waitForSelector('#file:enabled', { state: 'attached' });
  return page;
}

/** Opens a file and saves the poses that the page finds. */
async function findPoses(page, name) {
  await page.setInputFiles('#file', path(name));
  await page.waitForFunction((label) => document.querySelector('#picture').ariaLabel.startsWith(label), `${name}, `);
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#save')]);
  const entries = JSON.parse(readFileSync(await download.path()));
  for (const entry of entries) assert.equal(entry.file_name, name);
  return entries.map(({ score, keypoints }) => ({
    score,
    keypoints: Array.from({ length: keypoints.length / 3 }, (_, k) => {
      const [x, y, heat] = keypoints.slice(3 * k, 3 * k + 3);
      return { x, y, score: heat };
    }),
  }));
}

async function assertPosesOfPython(page, model) {
  for (const photo of PHOTOS) assertPosesEqual(await findPoses(page, photo), expected[model][photo], POSES);
}

async function chooseModel(page, name) {
  await page.setInputFiles('#model', path(name));
  await page.waitForFunction((label) => document.querySelector('#model-name').textContent.startsWith(label), name);
}

/** The sentence beside the picture. */
async function error(page) {
  return page.getByRole('alert').filter({ visible: true }).textContent();
}

function waitForText(page, selector, text) {
  return page.waitForFunction(
    ([place, wanted]) => document.querySelector(place).textContent.includes(wanted),
    [selector, text],
  );
}

before(async () => {
  if (DATA) {
    server = await serve('-m', 'dekr_tf', 'web', '--port', '0', '--model', path('float32.tflite'), path('maps.tflite'));
  }
});

after(async () => {
  for (const each of running) await each.kill();
});

test('with threads, photos give the poses of Python', withData, async () => {
  const page = await open(server);
  const threads = await page.evaluate(() => navigator.hardwareConcurrency);
  assert.equal(await page.textContent('#device'), threads > 1 ? `WASM, ${threads} threads` : 'WASM, 1 thread');
  assert.equal(await page.textContent('#model-name'), 'float32.tflite: 4 keypoints, float32, graph poses');
  await assertPosesOfPython(page, 'float32');
  await page.screenshot({ path: path('photo.png') });
  for (const model of ['int8', 'final']) {
    await chooseModel(page, `${model}.tflite`);
    await assertPosesOfPython(page, model);
  }
  await chooseModel(page, 'maps.tflite');
  await assertPosesOfPython(page, 'maps');
  assert.deepEqual(page.elsewhere, []);
});

test('the minimum score hides people', withData, async () => {
  const page = await open(server);
  const poses = await findPoses(page, 'wide.jpg');
  const minScore = (Math.floor(100 * poses[0].score) / 100).toFixed(2);
  await page.fill('#min-score', minScore);
  const shown = poses.filter(({ score }) => score >= minScore).length;
  assert.ok(0 < shown && shown < poses.length);
  assert.equal(await page.textContent('#count'), `${shown}`);
  assert.equal(await page.locator('#people li').count(), shown);
});

test('bad files are refused in a sentence, and the page goes on', withData, async () => {
  const page = await open(server);
  await page.setInputFiles('#file', path('broken.jpg'));
  assert.match(await error(page), /^Expected a photo .* Received: broken\.jpg$/);
  await page.setInputFiles('#file', path('broken.mp4'));
  await waitForText(page, '#error', 'Expected a video');
  assert.match(await error(page), /Received: broken\.mp4$/);
  await page.setInputFiles('#model', path('without_settings.tflite'));
  await waitForText(page, '#error', 'without its settings');
  await page.setInputFiles('#model', path('wide.jpg'));
  await waitForText(page, '#error', 'Expected a .tflite model');
  assertPosesEqual(await findPoses(page, 'wide.jpg'), expected.float32['wide.jpg'], POSES);
  assert.equal(await page.getByRole('alert').filter({ visible: true }).count(), 0);
});

test('a video is followed to its end', withData, async () => {
  const page = await open(server);
  await page.setInputFiles('#file', path('video.webm'));
  await waitForText(page, '#speed', 'frames a second');
  await waitForText(page, '#status', 'The video has ended.');
  assert.match(await page.getAttribute('#picture', 'aria-label'), /^video\.webm, (no|\d+) (people|person) found$/);
  assert.deepEqual(await page.evaluate(() => [picture.width, picture.height]), [160, 120]);
  // Within the page, so that the video cannot end in between.
  const labels = await page.evaluate(async () => {
    const labels = [pause.textContent];
    for (let clicks = 0; clicks < 2; clicks++) {
      const changed = new Promise((resolve) => new MutationObserver(resolve).observe(pause, { childList: true }));
      pause.click();
      await changed;
      labels.push(pause.textContent);
    }
    return labels;
  });
  assert.deepEqual(labels, ['Play', 'Pause', 'Play']);
  await findPoses(page, 'wide.jpg');
  assert.ok(await page.locator('#pause').isHidden());
});

test('the webcam is turned on and off, by keyboard', withData, async () => {
  const page = await open(server, FAKE_CAMERA);
  const webcam = page.getByRole('button', { name: 'Webcam' });
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'file');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await waitForText(page, '#speed', 'frames a second');
  assert.equal(await webcam.getAttribute('aria-pressed'), 'true');
  await page.screenshot({ path: path('webcam.png') });
  await page.keyboard.press('Enter');
  await waitForText(page, '#status', 'The webcam is off.');
  assert.equal(await webcam.getAttribute('aria-pressed'), 'false');
  assert.deepEqual(page.elsewhere, []);
});

test('on a narrow screen without a camera', withData, async () => {
  const page = await open(server, [], { width: 320, height: 640 });
  await page.getByRole('button', { name: 'Webcam' }).click();
  assert.equal(await error(page), 'No camera was found. Connect one and try again.');
  await findPoses(page, 'wide.jpg');
  assert.equal(await page.evaluate(() => document.scrollingElement.scrollWidth), 320);
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.screenshot({ path: path('narrow.png'), fullPage: true });
});

test('the graph maps runs on WebGPU', withData, async () => {
  const page = await open(server, SOFTWARE_GPU);
  assert.equal(await page.textContent('#device'), 'WebGPU');
  assert.equal(await page.textContent('#model-name'), 'maps.tflite: 4 keypoints, float32, graph maps');
  // The shaders round in another order, and the network's random weights carry that far.
  assertPosesEqual(await findPoses(page, 'wide.jpg'), expected.maps['wide.jpg'], { ...POSES, pixels: 0.005 });
});

test('WebGPU computes the graph poses as a whole, as WASM does', withData, async () => {
  const page = await open(server, SOFTWARE_GPU);
  await page.route('**/other.html', (route) => route.fulfill({ contentType: 'text/html', body: IMPORT_MAP }));
  for (const name of ['float32', 'peaks']) {
    await page.route('**/model.tflite', (route) => route.fulfill({ path: path(`${name}.tflite`) }));
    await page.goto(`${server}other.html`);
    const [wasm, webgpu] = await page.evaluate(async () => {
      const { loadAndCompile, loadLiteRt, Tensor } = await import('@litertjs/core');
      await loadLiteRt('litert/wasm/');
      const bytes = new Uint8Array(await (await fetch('model.tflite')).arrayBuffer());
      const pixels = Float32Array.from({ length: 64 * 96 * 3 }, (_, index) => Math.sin(index / 7 + index * index));
      const results = [];
      for (const accelerator of ['wasm', 'webgpu']) {
        const model = await loadAndCompile(bytes, { accelerator, gpuOptions: { precision: 'fp32' } });
        const image = new Tensor(pixels, [1, 64, 96, 3]);
        const outputs = await model.run({ image: accelerator === 'wasm' ? image : await image.moveTo(accelerator) });
        const result = { whole: model.isFullyAccelerated };
        for (const [output, tensor] of Object.entries(outputs)) result[output] = [...(await tensor.data())];
        results.push(result);
      }
      return results;
    });
    assert.ok(webgpu.whole, name);
    assert.ok(wasm.center_scores.filter((score) => score > 0).length > 3, name);
    for (const [output, limit] of [['keypoints', 0.005], ['keypoint_scores', 1e-5], ['center_scores', 1e-5]]) {
      const largest = Math.max(...wasm[output].map((value, index) => Math.abs(value - webgpu[output][index])));
      assert.ok(largest < limit, `${name}: ${output} differ by ${largest}`);
    }
    await page.unroute('**/model.tflite');
  }
});

test('on a static site without headers, the network runs on one thread', withData, async () => {
  const page = await open(await serve('-m', 'http.server', '0', '--bind', '127.0.0.1', '--directory', path('site')));
  assert.equal(await page.textContent('#device'), 'WASM, 1 thread');
  assertPosesEqual(await findPoses(page, 'wide.jpg'), expected.float32['wide.jpg'], POSES);
  assert.deepEqual(page.elsewhere, []);
});

test('another page uses the package as the documentation says', withData, async () => {
  const page = await open(server);
  const [, snippet] = /```js\n(.*?)```/s.exec(readFileSync(new URL('docs/web.md', ROOT), 'utf-8'));
  const body = `<!doctype html>${IMPORT_MAP}<img src="wide.jpg"><canvas width="424" height="300"></canvas>
    <script type="module">await document.querySelector('img').decode();
    ${snippet}
    window.poses = poses;</script>`;
  await page.route('**/other.html', (route) => route.fulfill({ contentType: 'text/html', body }));
  await page.route('**/wide.jpg', (route) => route.fulfill({ path: path('wide.jpg') }));
  await page.route('**/model.tflite', (route) => route.fulfill({ path: path('float32.tflite') }));
  await page.route('**/node_modules/@litertjs/core/wasm/*', (route) =>
    route.continue({ url: route.request().url().replace('node_modules/@litertjs/core', 'litert') }),
  );
  await page.goto(`${server}other.html`);
  await page.waitForFunction(() => window.poses);
  assertPosesEqual(await page.evaluate(() => window.poses), expected.float32['wide.jpg'], POSES);
  const drawn = await page.evaluate(() => {
    const { data } = document.querySelector('canvas').getContext('2d').getImageData(0, 0, 424, 300);
    return data.some((value) => value > 0);
  });
  assert.ok(drawn);
});
