import { drawPoses, personColor } from 'dekr-pose';

/** Milliseconds between two announcements of the people in a video, for screen readers. */
const QUIET = 3000;
/** Milliseconds over which frames a second are counted. */
const WINDOW = 2000;

/** What the page shows: the picture with its people, messages, and numbers. */
export class View {
  constructor(document) {
    const elements = [...document.querySelectorAll('[id]')];
    this.elements = Object.fromEntries(elements.map((element) => [camelCase(element.id), element]));
    this.context = this.elements.picture.getContext('2d');
    this.shown = null;
    this.frames = [];
    this.announced = 0;
    this.elements.minScore.addEventListener('input', () => this.draw());
  }

  showModel({ accelerator, threads, settings, skeleton }, name) {
    this.skeleton = skeleton;
    this.clear();
    this.elements.minScore.valueAsNumber = settings.decoder.min_score;
    this.draw();
    const { graph, precision } = settings.artifact;
    this.elements.modelName.textContent = `${name}: ${skeleton.names.length} keypoints, ${precision}, graph ${graph}`;
    const processor = threads > 1 ? `WASM, ${threads} threads` : 'WASM, 1 thread';
    this.elements.device.textContent = accelerator === 'webgpu' ? 'WebGPU' : processor;
  }

  /** Takes away the picture and its people. */
  clear() {
    this.shown = null;
    this.elements.save.disabled = true;
    this.elements.placeholder.hidden = false;
    this.elements.picture.hidden = true;
    this.elements.picture.setAttribute('aria-label', 'No picture yet');
    this.elements.people.replaceChildren();
    this.elements.count.textContent = '';
  }

  /**
   * @param {CanvasImageSource} picture
   * @param {object[]} poses
   * @param {string} name - of the file
   */
  show(picture, poses, name) {
    this.shown = { picture, poses, name };
    this.elements.save.disabled = false;
    this.elements.placeholder.hidden = true;
    this.elements.picture.hidden = false;
    this.draw();
  }

  get people() {
    const minScore = this.elements.minScore.valueAsNumber;
    return this.shown.poses.filter(({ score }) => score >= minScore);
  }

  draw() {
    const { minScore, minScoreValue, picture, count } = this.elements;
    minScoreValue.textContent = minScore.valueAsNumber.toFixed(2);
    if (!this.shown) return;
    const { width, height } = this.shown.picture;
    if (picture.width !== width || picture.height !== height) Object.assign(picture, { width, height });
    this.context.drawImage(this.shown.picture, 0, 0);
    drawPoses(this.context, this.people, this.skeleton);
    count.textContent = this.people.length;
    picture.setAttribute('aria-label', `${this.shown.name}, ${this.sentence}`);
    this.listPeople();
  }

  listPeople() {
    const items = this.people.map(({ score, keypoints }, index) => {
      const item = document.createElement('li');
      item.style.setProperty('--color', personColor(index));
      const place = document.createElement('span');
      place.textContent = position(keypoints, this.shown.picture);
      item.append(`Person ${index + 1}: ${score.toFixed(2)} `, place);
      return item;
    });
    this.elements.people.replaceChildren(...items);
  }

  get sentence() {
    const count = this.people.length;
    return count === 1 ? '1 person found' : `${count || 'no'} people found`;
  }

  announce(text) {
    this.elements.status.textContent = text;
    this.announced = performance.now();
  }

  announcePeople() {
    const sentence = `${this.sentence}.`;
    this.announce(sentence[0].toUpperCase() + sentence.slice(1));
  }

  announcePeopleNowAndThen() {
    if (performance.now() - this.announced > QUIET) this.announcePeople();
  }

  showTime(milliseconds) {
    this.elements.speed.textContent = `${Math.round(milliseconds)} ms`;
  }

  startClock() {
    this.frames = [performance.now()];
  }

  showFrameRate() {
    const now = performance.now();
    this.frames = [...this.frames.filter((time) => now - time < WINDOW), now];
    const seconds = (now - this.frames[0]) / 1000;
    if (seconds) this.elements.speed.textContent = `${((this.frames.length - 1) / seconds).toFixed(1)} frames a second`;
  }

  showError({ message }) {
    this.elements.error.textContent = message[0].toUpperCase() + message.slice(1);
    this.elements.error.hidden = false;
    this.announce('');
  }

  clearError() {
    this.elements.error.hidden = true;
  }

  /** Offers the people as a file, as `dekr predict --output poses.json` writes it. */
  save() {
    const { poses, name } = this.shown;
    const entries = poses.map(({ score, keypoints }) => ({
      file_name: name,
      category_id: 1,
      keypoints: keypoints.flatMap(({ x, y, score: heat }) => [thousandths(x), thousandths(y), heat]),
      score,
    }));
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([JSON.stringify(entries)], { type: 'application/json' }));
    link.download = 'poses.json';
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

/** Where a person is, in words. */
function position(keypoints, { width, height }) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const third = (value, names) => names[Math.min(Math.max(Math.floor(3 * value), 0), 2)];
  const row = third(mean(keypoints.map(({ y }) => y)) / height, ['top', 'middle', 'bottom']);
  const column = third(mean(keypoints.map(({ x }) => x)) / width, ['left', 'center', 'right']);
  return `${row} ${column}`;
}

function thousandths(value) {
  return Math.round(1000 * value) / 1000;
}

function camelCase(id) {
  return id.replace(/-(.)/g, (_, letter) => letter.toUpperCase());
}
