// The model's files: one for each threshold, with the cascade inside, and one that looks at everything and tells what it saw.
import {loadAndCompile, loadLiteRt, Tensor} from "@litertjs/core";

async function content(url) {
  const answer = await fetch(url, {cache: "no-cache"});  // Asks whether the file has changed.
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer;
}

export const about = await (await content("about.json")).json();
const {height, width, channels} = about.image;

export const open = () => loadLiteRt(new URL("litertjs/core/wasm/", document.baseURI).href);

export async function load(url) {
  return loadAndCompile(new Uint8Array(await (await content(url)).arrayBuffer()), {accelerator: "wasm"});
}

// What a file answers for an image, each output as a typed array; and how long that took.
export async function run(model, pixels) {
  const images = new Tensor(pixels, [1, height, width, channels]), start = performance.now();
  const outputs = Object.entries(await model.run({images}));
  const milliseconds = performance.now() - start;
  const results = Object.fromEntries(outputs.map(([name, tensor]) => [name, tensor.toTypedArray().slice()]));
  for (const [, tensor] of outputs) tensor.delete();
  images.delete();
  return {...results, milliseconds};
}

export const shapes = model => Object.fromEntries(model.getOutputDetails().map(output => [output.name, [...output.shape]]));
