// What the model saw, and what it made of it.
import {about} from "./models.js";

const COLOURS = ["#5b6b86", "#d62728", "#0b7285", "#b45309", "#2b8a3e", "#7c3aed", "#be185d"];  // White is read on each.
const ALL = 12, SOME = 5;  // So many classes are all shown; of more, the most probable.
const {class_names: names, scales, prepared, macs} = about;
const finest = Math.min(...scales);
const $ = selector => document.querySelector(selector);
const percent = share => `${(100 * share).toFixed(1)} %`;
const compact = new Intl.NumberFormat("en", {notation: "compact", compactDisplay: "long", maximumSignificantDigits: 3}).format;

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// `seen` is what the explaining file says, `shapes` its outputs' shapes, and `answer` what the cascade says.
export function show(answer, seen, shapes, threshold) {
  const stop = answer.exit_stage[0], glimpses = glimpsesOf(seen, shapes);
  $("#stages").replaceChildren(...stages(seen, shapes, glimpses, stop));
  $("#frames").replaceChildren(...glimpses.toReversed().flatMap(glimpse => frames(glimpse, glimpse.n > stop)));
  $("#canvas").ariaLabel = `The picture. ${glimpses.slice(0, stop).map(describe).join(" ")}`;
  tell(answer, stop, threshold);
  tellCosts(stop);
}

export function blank(hint) {
  for (const id of ["stages", "frames", "costs", "answer", "spent"]) $(`#${id}`).replaceChildren();
  $("#canvas").ariaLabel = "The picture: none yet.";
  $("#what").textContent = hint;
}

function tell({probabilities, milliseconds}, stop, threshold) {
  const most = Math.max(...probabilities);
  const after = stop ? `after ${stop} glimpse${stop > 1 ? "s" : ""}` : "by the thumbnail alone";
  $("#answer").textContent = names[probabilities.indexOf(most)];
  const missed = most < threshold ? ": not enough, but there is no more to see" : "";
  $("#what").textContent = `${percent(most)} sure, ${after}${missed}`;
  $("#spent").textContent = `${milliseconds.toFixed(1)} ms in this browser`;
}

function tellCosts(stop) {
  if (!macs) return;  // Networks that cannot be counted.
  const {stages: {[stop]: spent}, everywhere, how} = macs, longest = Math.max(spent, everywhere);
  $("#spent").textContent += `, ${spent.toLocaleString("en")} multiply–accumulates: ` +
    `${Number((100 * spent / everywhere).toPrecision(2))} % of looking everywhere`;
  const spans = {here: spent, everywhere};
  const bars = Object.entries(spans).map(([name, cost]) => bar(name, cost / longest, compact(cost)));
  bars[0].classList.add("spent");
  const explained = `Looking everywhere is what the network of a glimpse would take for all of the image, at the finest scale \
that it sees: ${how}, ${everywhere.toLocaleString("en")} multiply–accumulates.`;
  $("#costs").replaceChildren(...bars, make("p", {}, explained));
}

function bar(name, share, text) {
  const filled = make("b");
  filled.style.width = `${100 * share}%`;
  return make("div", {className: "bar"}, make("span", {title: name}, name), make("i", {}, filled), make("span", {}, text));
}

// ---- Stages: the thumbnail, and each glimpse ----

function stages(seen, shapes, glimpses, stop) {
  const [, rows, columns, channels] = shapes.thumbnail;
  const thumbnail = picture(seen.thumbnail, columns, rows, channels, "all of it", "The thumbnail");
  const pictures = [[thumbnail], ...glimpses.map(glimpse => glimpse.patches.map(patch => patch.picture))];
  return pictures.map((figures, n) => {
    const [kind, badge] = n < stop ? ["", "not sure yet"] : n === stop ? ["stopped", "stopped here"] : ["skipped", "skipped"];
    const title = make("h2", {}, n ? `Glimpse ${n}` : "Thumbnail");
    const header = make("header", {}, title, make("span", {className: "badge"}, badge));
    const probabilities = seen.stage_probabilities.subarray(n * names.length, (n + 1) * names.length);
    const card = make("article", {className: `stage ${kind}`}, header, make("div", {className: "pictures"}, ...figures),
      ...meters(probabilities));
    card.style.setProperty("--colour", COLOURS[n % COLOURS.length]);
    card.style.setProperty("--names", `${0.65 * Math.min(12, Math.max(...names.map(name => name.length)))}em`);
    return card;
  });
}

function meters(probabilities) {
  const sorted = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const shown = names.length > ALL ? sorted.slice(0, SOME) : sorted.toSorted((a, b) => a - b);
  return shown.map(c => {
    const meter = bar(names[c], probabilities[c], percent(probabilities[c]));
    const value = {ariaLabel: names[c], ariaValueMin: 0, ariaValueMax: 1, ariaValueNow: probabilities[c].toFixed(6)};
    if (c === sorted[0]) meter.classList.add("best");
    return Object.assign(meter, {role: "meter", ariaValueText: percent(probabilities[c]), ...value});
  });
}

// Each glimpse's number, its centre in pixels, and for each scale the side of its window and what was seen there.
function glimpsesOf(seen, shapes) {
  const [, count, size, , stacked] = shapes.patches, channels = stacked / scales.length, length = size * size * stacked;
  return Array.from({length: count}, (_, index) => {
    const n = index + 1, values = seen.patches.subarray(index * length, n * length);
    const [y, x] = seen.locations.subarray(2 * index, 2 * n);
    const patches = scales.map((scale, k) => {
      const part = values.filter((_, i) => Math.floor(i % stacked / channels) === k), side = scale * size;
      return {side, coarse: scale > finest, picture: picture(part, size, size, channels, `${side} px wide`, `Glimpse ${n}`)};
    });
    return {n, x: x * (prepared.width - 1), y: y * (prepared.height - 1), patches};
  });
}

const describe = ({n, x, y}) => `Glimpse ${n} at ${Math.round(x)} pixels from the left and ${Math.round(y)} from the top.`;

function picture(values, width, height, channels, caption, name) {
  const canvas = make("canvas", {width, height, role: "img", ariaLabel: `${name}, ${caption}`});
  const image = new ImageData(width, height);
  for (let i = 0; i < image.data.length; i++) {
    const channel = channels < 3 ? 0 : i % 4;  // Grey, if it is not colour.
    image.data[i] = i % 4 === 3 ? 255 : 255 * values[Math.floor(i / 4) * channels + channel];
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return make("figure", {}, canvas, caption);
}

// ---- Frames on the picture ----

function frames({n, x, y, patches}, skipped) {
  const colour = COLOURS[n % COLOURS.length], widest = Math.max(...patches.map(patch => patch.side));
  const windows = patches.map(({side, coarse}) =>
    frame(x + (1 - side) / 2, y + (1 - side) / 2, side, `frame ${coarse ? "coarse" : ""}`, colour));
  const number = frame(x + (1 - widest) / 2, y + (1 - widest) / 2, 0, "number", colour);
  number.textContent = n;
  const all = [...windows, number];
  if (skipped) for (const each of all) each.classList.add("skipped");
  return all;
}

export function frame(x, y, side, className, colour = "") {
  const made = make("div", {className}), left = 100 * x / prepared.width, top = 100 * y / prepared.height;
  made.style.setProperty("--colour", colour);
  if (side) {
    Object.assign(made.style, {left: `${left}%`, top: `${top}%`});
    Object.assign(made.style, {width: `${100 * side / prepared.width}%`, height: `${100 * side / prepared.height}%`});
  } else {  // A label above that corner, or where there is room.
    Object.assign(made.style, {left: `clamp(2px, ${left}%, 100% - 22px)`, top: `clamp(2px, ${top}% - 22px, 100% - 22px)`});
  }
  return made;
}
