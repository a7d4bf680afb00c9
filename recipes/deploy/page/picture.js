// The canvas, which has what the model is given, pixel by pixel: a picture that is made to fit, or strokes.
import {about} from "./models.js";

const PEN = 2.4;  // Pixels: about what the strokes of MNIST's digits are.
const {height, width, channels, largest} = about.image;
export const canvas = document.querySelector("#canvas");
[canvas.width, canvas.height] = [width, height];
const context = canvas.getContext("2d", {willReadFrequently: true});
Object.assign(context, {strokeStyle: "#fff", lineWidth: PEN, lineCap: "round", lineJoin: "round"});
context.imageSmoothingQuality = "high";

function fill(colour) {
  context.fillStyle = colour;
  context.fillRect(0, 0, width, height);
}

// The strokes as a whole each time: drawn piece by piece, their edges would not be smooth.
export function drawStrokes(strokes) {
  fill("#000");
  for (const [[x, y], ...rest] of strokes) {
    context.beginPath();
    context.moveTo(x, y);
    for (const point of [[x + 0.01, y], ...rest]) context.lineTo(...point);
    context.stroke();
  }
}

// Both ways keep the picture's aspect: "pad" shows all of it and leaves black bars, "crop" fills the canvas with its middle.
export function drawPicture(bitmap, fit, invert) {
  const ratio = (fit === "crop" ? Math.max : Math.min)(width / bitmap.width, height / bitmap.height);
  const [w, h] = [bitmap.width * ratio, bitmap.height * ratio];
  fill(invert ? "#fff" : "#000");
  context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
  adjust(invert);
}

function adjust(invert) {
  const image = context.getImageData(0, 0, width, height), {data} = image;
  for (let i = 0; i < data.length; i += 4) {
    if (channels === 1) data.fill(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2], i, i + 3);  // As JPEG has it.
    if (invert) for (let c = i; c < i + 3; c++) data[c] = 255 - data[c];
  }
  context.putImageData(image, 0, 0);
}

// `[height, width, channels]`, scaled as in training.
export function pixels() {
  const {data} = context.getImageData(0, 0, width, height), values = new Float32Array(width * height * channels);
  for (let i = 0; i < values.length; i++) values[i] = data[4 * Math.floor(i / channels) + i % channels] * (largest / 255);
  return values;
}
