// Drawing people onto a canvas as dekr_tf/visualization/drawing.py draws them onto a photo.

import { extent } from './pose_nms.js';

const LEFT_COLOR = 'rgb(255 140 40)';
const RIGHT_COLOR = 'rgb(40 150 255)';
const OUTLINE_COLOR = 'rgb(20 20 20)';
const LABEL_COLOR = 'rgb(255 255 255)';

// Keypoints below the first share of the person's best keypoint score are left out, those below the second are faded.
const LEFT_OUT = 0.1;
const FADED = 0.5;
const FAINTEST = 0.35;

// OpenCV's font is 22 pixels high at scale 1, and capitals take about 0.72 of a font's size.
const FONT_SIZE = 22 / 0.72;

/**
 * Draws skeletons: limbs orange on the person's left, blue on the right, else in a color of the person's own.
 *
 * @param {CanvasRenderingContext2D} context - of a canvas in pixels of the photo
 * @param {{score: number, keypoints: {x: number, y: number, score: number}[]}[]} poses - best first
 * @param {{edges: number[][], flipPairs: number[][], names: string[]}} skeleton
 */
export function drawPoses(context, poses, skeleton) {
  const sides = skeleton.names.map(() => 0);
  for (const [left, right] of skeleton.flipPairs) [sides[left], sides[right]] = [-1, 1];
  context.save();
  // Coordinates count from the middle of the first pixel, those of a canvas from its corner.
  context.translate(0.5, 0.5);
  context.lineCap = 'round';
  // The best on top.
  for (let person = poses.length - 1; person >= 0; person--) {
    drawPerson(context, poses[person], person, skeleton, sides);
  }
  context.restore();
}

function drawPerson(context, { score, keypoints }, person, { edges }, sides) {
  const opacities = opacitiesOf(keypoints);
  const shown = keypoints.filter((_, k) => opacities[k] > 0);
  if (!shown.length) return;
  const { line, radius, font } = sizesOf(shown, context.canvas);
  const ownColor = personColor(person);
  const colors = { [-1]: LEFT_COLOR, 0: ownColor, 1: RIGHT_COLOR };
  for (const outline of [true, false]) {
    context.lineWidth = outline ? line + 2 : line;
    for (const [start, end] of edges) {
      context.globalAlpha = Math.min(opacities[start], opacities[end]) * (outline ? 0.5 : 0.9);
      if (!context.globalAlpha) continue;
      context.strokeStyle = outline ? OUTLINE_COLOR : colors[Math.sign(sides[start] + sides[end])];
      context.beginPath();
      context.moveTo(keypoints[start].x, keypoints[start].y);
      context.lineTo(keypoints[end].x, keypoints[end].y);
      context.stroke();
    }
  }
  keypoints.forEach((keypoint, k) => {
    if (!opacities[k]) return;
    drawDot(context, keypoint, radius + 1, OUTLINE_COLOR, 0.8 * opacities[k]);
    drawDot(context, keypoint, radius, LABEL_COLOR, opacities[k]);
    drawDot(context, keypoint, 0.68 * radius, colors[sides[k]], opacities[k]);
  });
  drawLabel(context, score.toFixed(2), shown, font, ownColor);
}

/** The color of a person's own, by place among those found. */
export function personColor(person) {
  // Steps of the golden ratio spread the hues however many people there are.
  const hue = (0.36 + 0.618034 * person) % 1;
  // 65 % saturation and 95 % value in HSV.
  return `hsl(${360 * hue}deg 86% 64%)`;
}

function opacitiesOf(keypoints) {
  const best = Math.max(...keypoints.map(({ score }) => score));
  return keypoints.map(({ score }) => {
    const relative = best > 0 ? score / best : 0;
    if (relative < LEFT_OUT) return 0;
    return FAINTEST + (1 - FAINTEST) * clamp((relative - LEFT_OUT) / (FADED - LEFT_OUT), 0, 1);
  });
}

function sizesOf(keypoints, canvas) {
  const person = Math.hypot(...extent(keypoints));
  const image = Math.hypot(canvas.width, canvas.height);
  const line = clamp(0.014 * person, 1, Math.max(1, 0.006 * image));
  const font = Math.max(0.3, clamp(0.0011 * person, 0.0004 * image, 0.0006 * image));
  return { line: Math.round(line), radius: Math.max(1.5, 1.2 * line), font: FONT_SIZE * font };
}

function drawDot(context, { x, y }, radius, color, opacity) {
  context.globalAlpha = opacity;
  context.fillStyle = color;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

/** A small plate above the topmost keypoint, moved to lie inside the photo. */
function drawLabel(context, label, keypoints, font, color) {
  context.font = `${font}px system-ui, sans-serif`;
  const textHeight = 0.72 * font;
  const pad = Math.max(2, textHeight / 3);
  const width = context.measureText(label).width + 2 * pad;
  const height = textHeight + 2 * pad;
  const top = keypoints.reduce((highest, other) => (other.y < highest.y ? other : highest));
  const left = clamp(top.x - width / 2, 0, Math.max(0, context.canvas.width - width));
  const above = clamp(top.y - height - 1.5 * textHeight, 0, Math.max(0, context.canvas.height - height));
  context.globalAlpha = 0.7;
  context.fillStyle = color;
  context.fillRect(left, above, width, height);
  context.globalAlpha = 1;
  context.fillStyle = OUTLINE_COLOR;
  context.fillText(label, left + pad, above + pad + textHeight);
}

function clamp(value, lowest, highest) {
  return Math.min(Math.max(value, lowest), highest);
}
