export { PoseDetector } from './detector.js';
export { drawPoses, personColor } from './drawing.js';
export { InputError } from './errors.js';
