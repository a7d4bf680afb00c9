// The page: pictures come in, by drawing too, and what the model makes of the one on the canvas is shown.
import {available as cameraIsAvailable, takePicture} from "./camera.js";
import {about, load, open, run, shapes} from "./models.js";
import {canvas, drawPicture, drawStrokes, pixels} from "./picture.js";
import {blank, frame, show} from "./show.js";

const DIGIT = 20;  // Pixels: the height of MNIST's digits.
const $ = selector => document.querySelector(selector);
const {cascades, drawable, examples, image: {height, width, channels}} = about;
const WAYS = {"choose, drop or paste a picture": true, "use the camera": cameraIsAvailable, "draw here": drawable,
  "try an example": examples.length};
const HINT = `To begin: ${Object.keys(WAYS).filter(way => WAYS[way]).join(", ")}.`;

let picture, strokes = [];  // What is on the canvas is the picture if there is one, else the strokes.
let explaining, loaded = {};  // Files: that one, and the cascades by threshold.

// ---- One thing after another; the page is busy until what it shows is of the picture and the threshold of now ----

let queue = Promise.resolve(), waiting = 0, stale = false;

function enqueue(work) {
  waiting++;
  $("main").ariaBusy = "true";
  queue = queue.then(work).catch(report).then(() => { if (!--waiting) $("main").ariaBusy = "false"; });
}

function report(error) {
  blank(error.message ?? String(error));
}

function changed() {
  if (picture) drawPicture(picture, $("#fit").value, $("#invert").checked); else drawStrokes(strokes);
  if (!stale) enqueue(look);
  stale = true;
}

async function look() {
  stale = false;
  if (!picture && !strokes.length) return begin();
  const {file, threshold} = cascades[$("#threshold").selectedIndex];
  const cascade = loaded[file] ??= await load(file);
  await run(cascade, pixels());  // The first run of a branch prepares it: what is timed is the second.
  show(await run(cascade, pixels()), await run(explaining, pixels()), shapes(explaining), threshold);
}

function begin() {
  blank(HINT);
  if (drawable) $("#frames").append(frame((width - DIGIT) / 2, (height - DIGIT) / 2, DIGIT, "frame hint"));
}

// ---- Pictures: a file, from the clipboard, dropped, an example, or from the camera ----

// Shows the picture that `get` promises, if it gives one; `otherwise` is said if it fails.
const use = (get, otherwise) => enqueue(async () => {
  const got = await get().catch(error => { throw new Error(`${otherwise} (${error.message})`); });
  if (!got) return;
  picture = got;
  changed();
});

const useFile = file => file && use(() => createImageBitmap(file), `${file.name} is no picture that this browser can show.`);

function makeExamples() {
  for (const {name, file} of examples) {
    const button = document.createElement("button"), image = new Image();
    [image.src, image.alt] = [file, name];
    button.append(image);
    button.onclick = () => use(async () => createImageBitmap(await (await fetch(file)).blob()), `${name} cannot be shown.`);
    $("#examples").append(button);
  }
}

function receivePictures() {
  const files = transfer => [...transfer.files].find(file => file.type.startsWith("image/")) ?? transfer.files[0];
  $("#file").onchange = event => { useFile(event.target.files[0]); event.target.value = ""; };
  addEventListener("paste", event => useFile(files(event.clipboardData)));
  addEventListener("dragover", event => { event.preventDefault(); $("#board").classList.add("over"); });
  addEventListener("dragleave", () => $("#board").classList.remove("over"));
  addEventListener("drop", event => {
    event.preventDefault();
    $("#board").classList.remove("over");
    useFile(files(event.dataTransfer));
  });
  $("#camera").hidden = !cameraIsAvailable;
  $("#camera").onclick = () => use(takePicture, "The camera cannot be used.");
}

// ---- Drawing ----

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * width / box.width, (event.clientY - box.top) * height / box.height];
}

function receiveStrokes() {
  canvas.onpointerdown = event => {
    canvas.setPointerCapture(event.pointerId);
    if (picture) [picture, strokes] = [null, []];
    strokes.push([place(event)]);
    changed();
  };
  canvas.onpointermove = event => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    strokes.at(-1).push(...(event.getCoalescedEvents?.() ?? []).map(place), place(event));
    changed();
  };
}

// ---- All of it ----

function setUp() {
  const percents = cascades.map(({threshold}) => new Option(`${Number((100 * threshold).toFixed(3))} %`));
  $("#threshold").replaceChildren(...percents);
  $("#threshold").selectedIndex = Math.floor(cascades.length / 2);
  $("#board").classList.toggle("drawable", drawable);
  $("#inverting").hidden = channels > 1;
  $("#hint").textContent = `Pictures are shown to the model as ${width}×${height} pixels${channels > 1 ? "" : ", grey"}.`;
  for (const id of ["threshold", "fit", "invert"]) $(`#${id}`).onchange = changed;
  $("#clear").onclick = () => { [picture, strokes] = [null, []]; changed(); };
  makeExamples();
  receivePictures();
  if (drawable) receiveStrokes();
}

setUp();
enqueue(async () => { await open(); explaining = await load("explaining.tflite"); changed(); });
