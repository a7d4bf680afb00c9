"""Pictures of the page of demo.py, and how long it takes, in headless Chromium. Writes recipes/results/demo.json too.

    pip install -e ".[recipes,demo]"                              # and Chromium, and npm
    python recipes/deploy/screenshots.py --data-dir ../DeepPCB    # two minutes

The boards are of DeepPCB's official test split: the first that stop after 0, 1, ... glimpses, two of each, shown 25 times. The
pictures are of the first that stops after two.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

import demo
import numpy as np
import tensorflow as tf
from arguments import folder_to_write, in_one_line

import keras_glimpse

THRESHOLD = 0.9955  # Of the boards' cascade, as on the model's card.
WIDE, PHONE = (
    {"viewport": {"width": 1180, "height": 900}},
    {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
)
OF_EACH, TIMES, WARM = 2, 25, 10
SHOW = """async example => {
  const main = document.querySelector("main"), start = performance.now();
  const shown = new Promise(done => new MutationObserver((_, observer) => {
    if (main.ariaBusy === "false") { observer.disconnect(); done(); }
  }).observe(main, {attributeFilter: ["aria-busy"]}));
  document.querySelectorAll("#examples button")[example].click();
  await shown;
  const stop = [...document.querySelectorAll(".stage")].findIndex(stage => stage.classList.contains("stopped"));
  return [stop, performance.now() - start, parseFloat(document.querySelector("#spent").textContent)];
}"""  # After how many glimpses; milliseconds from the click to what it shows, and of the cascade alone, as the page says.


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="DeepPCB")
    parser.add_argument("--out", type=Path, default=Path("recipes/results"), help="default %(default)s")
    args = parser.parse_args()
    with in_one_line():
        from playwright.sync_api import sync_playwright

        packages, figures = demo.litertjs(demo.CACHE), folder_to_write(args.out / "figures")
        with sync_playwright() as driver, driver.chromium.launch(executable_path=chromium()) as browser:
            with served(keras_glimpse.load_pretrained("jittered-mnist"), packages) as address:
                picture(browser, address, 1, WIDE, figures / "demo.png")
            model = keras_glimpse.load_pretrained("deeppcb-defects")
            model.class_names = ("clean", "defective")
            stages, boards = examples(model, args.data_dir / "PCBData")
            shown = stages.index(2)
            with served(model, packages, thresholds=[THRESHOLD], examples=boards) as address:
                picture(browser, address, shown, WIDE, figures / "demo-board.png")
                picture(browser, address, shown, PHONE, figures / "demo-board-phone.png")
                times = measure(browser, address, len(boards))
            about = {"browser": f"Chromium {browser.version}", "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
        content = about | {"litertjs": demo.VERSION, "model": "deeppcb-defects", "threshold": THRESHOLD, "stages": times}
        (args.out / "demo.json").write_text(json.dumps(content, indent=2) + "\n")
        print(json.dumps(content, indent=2))


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise FileNotFoundError("No Chromium was found: `apt install chromium`, for one.")
    return found


@contextlib.contextmanager
def served(*args, **kwargs) -> Iterator[str]:
    """Where a page is served that `demo.build` makes of these arguments, without the folder."""
    model, packages = args
    with tempfile.TemporaryDirectory() as scratch:
        demo.build(model, Path(scratch) / "page", packages, **kwargs)
        with demo.server(Path(scratch) / "page") as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/"
            finally:
                server.shutdown()
                thread.join()


def examples(model, folder: Path) -> tuple[list[int], list[Path]]:
    """The first test boards that stop after 0, 1, ... glimpses, `OF_EACH`, and after how many each stops."""
    lines = (folder / "test.txt").read_text().split("\n")
    scans = [folder / line.split(" ")[0] for line in lines if line]
    boards = [scan.with_name(f"{scan.stem}_{kind}.jpg") for scan in scans for kind in ("test", "temp")]
    images = (tf.io.decode_jpeg(path.read_bytes(), channels=1, dct_method="INTEGER_ACCURATE")[None] for path in boards)
    stops = [int(keras_glimpse.cascade_predict(model, image, THRESHOLD).exit_stage[0]) for image in images]
    chosen = np.concatenate([np.flatnonzero(np.array(stops) == stage)[:OF_EACH] for stage in range(max(stops) + 1)])
    return [stops[n] for n in chosen], [boards[n] for n in chosen]


def opened(browser, address, screen):
    page = browser.new_page(**screen)
    page.goto(address)
    page.wait_for_selector("main[aria-busy=false]")
    return page


def picture(browser, address: str, example: int, screen: dict, path: Path) -> None:
    page = opened(browser, address, screen)
    for _ in range(WARM):
        page.evaluate(SHOW, example)
    page.screenshot(path=path, full_page=True)
    page.close()


def measure(browser, address: str, count: int) -> list[dict]:
    """Median and least milliseconds for the boards that stop after 0, 1, ... glimpses: other work of a machine only adds."""
    page, times = opened(browser, address, WIDE), defaultdict(list)
    for example in TIMES * [*range(count)]:
        stage, *milliseconds = page.evaluate(SHOW, example)
        times[stage].append(milliseconds)
    page.close()
    names = ("shown_ms", "cascade_ms", "fastest_shown_ms", "fastest_cascade_ms")
    rows = {
        stage: [round(of(each), 1) for of in (median, min) for each in zip(*found)] for stage, found in sorted(times.items())
    }
    return [{"glimpses": stage, "runs": len(times[stage])} | dict(zip(names, row)) for stage, row in rows.items()]


if __name__ == "__main__":
    main()
