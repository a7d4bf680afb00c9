"""What each part for large images does: `ours` on DeepPCB's windows of 256x256, with one thing changed at a time.

    python recipes/images/ablation.py --data-dir ../DeepPCB                       # 10 minutes a change on two busy cores
    python recipes/images/ablation.py --data-dir ../DeepPCB --change hard         # only this one
    python recipes/images/ablation.py --smoke                                     # in a minute; keeps nothing

Each is trained for the same 12 sweeps of stage 1, with one seed. After each sweep, where the search and the prediction look is
compared with the defects' boxes, on images that were held out. A change that was interrupted resumes from its last sweep; one
that is finished is not trained again. `report.py` writes the table and draws the figure of the guide.
"""

import argparse
import csv
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import runs
from arguments import folder_to_write, in_one_line, refuse

import keras_glimpse
from images import measure, tasks, training

TASK, SWEEPS = "kind", 12
COLUMNS = ["change", "sweeps", "error", "pointing", "macs", "commit", "versions", "details"]


def layer(name: str, **config) -> dict:
    """A layer of keras_glimpse as a saved configuration has it."""
    return {"class_name": f"keras_glimpse>{name}", "config": config}


class Change(NamedTuple):
    """What is changed, in words, and as arguments of `GlimpseClassifier.for_large_images` instead of those of `ours`."""

    title: str
    model: dict


HEAD = {"location_head": layer("LocationHead")}
DENSE = HEAD | {  # Dense features have no places, so there is no map. Candidates are 16x16 places, as many as the map's cells.
    "low_res_net": layer("LowResNet", num_classes=6, size=64, hidden_units=500),
    "glimpse_net": layer("GlimpseNet", num_classes=6, hidden_units=500),
    "search_stride": 1 / 16,
}
LESS_POOLED = layer("ConvGlimpseNet", num_classes=6, pooled=[0, 1])
CHANGES = {
    "ours": Change("nothing", {}),
    "local": Change("search: 3x3 places, 2 pixels apart, as in the paper", {"search_size": 3, "search_stride": 2}),
    "head": Change("location: a regression, `LocationHead`", HEAD),
    "hard": Change('E step: the best place, `assignment="hard"`', {"assignment": "hard"}),
    "no-contrast": Change("E step: no z⁻, `contrastive=False`", {"contrastive": False}),
    "sharp": Change("E step: the label counts four times, `sharpness=4`", {"sharpness": 4.0}),
    "pooled": Change("networks: one pooling less, `ConvGlimpseNet(pooled=[0, 1])`", {"glimpse_net": LESS_POOLED}),
    "dense": Change("networks: dense, of 500 units, and so a `LocationHead`", DENSE),
}


def main():
    args = _parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kept_in, results = (Path(scratch), Path(scratch)) if args.smoke else (args.runs, runs.RESULTS)
        with in_one_line():
            folder_to_write(kept_in, "--runs")
            task = tasks.load(TASK, args.data_dir, args.smoke)
        for change in args.change or CHANGES:
            result = tested(change, training.Run(changed(change, args.smoke), 0, task, kept_in / change, args.smoke), results)
            print(f"{change:12} {result['error']:6.2f} %, glimpse on the defect in {result['pointing']} %")


def _parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a clone of github.com/tangsanli5201/DeepPCB")
    parser.add_argument("--change", action="append", choices=CHANGES, help="only this one; repeatable")
    parser.add_argument("--smoke", action="store_true", help="all on a few small images, in under a minute; keeps nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="where models are kept; default %(default)s")
    args = parser.parse_args()
    if args.smoke:
        refuse(parser, args, "--smoke keeps nothing", "runs")
    return args


def changed(change: str, smoke: bool = False) -> training.Row:
    """The row `ours` of the task with one thing changed."""
    row = training.rows()[TASK]["ours"]
    row = replace(row, model=row.model | CHANGES[change].model, epochs={"1": SWEEPS})
    return training.short(row) if smoke else row


def tested(change: str, run: training.Run, results: Path) -> dict:
    """The figures of a change, trained and tested now if that has not been done."""
    return runs.once(run.folder / "result.json", results / "images_ablation.csv", COLUMNS, lambda: measured(change, run))


def measured(change: str, run: training.Run) -> dict:
    """The figures of a change."""
    model = run.model()
    logits, locations = measure.looks(model, run.task.test)
    errors = measure.errors_of(logits, run.task.test.labels)
    return {
        "change": change,
        "sweeps": sum(run.row.stages.values()),
        "error": errors[-1],
        "pointing": measure.pointing(locations, run.task.test)[0],
        "macs": int(keras_glimpse.stage_macs(model)[-1]),
        "commit": run.begin(),
        "versions": runs.versions(),
        "details": {"errors": errors, "by chance": measure.by_chance(run.task.test), "by sweep": by_sweep(run)},
    }


def by_sweep(run: training.Run) -> dict[str, list[float]]:
    """What `measure.Pointing` wrote: how often each place was on the defect, after each sweep."""
    lines = csv.reader((run.folder / "pointing_1.csv").read_text().splitlines())
    last = {int(epoch): dict(share.split() for share in shares) for epoch, *shares in lines}  # One may be there twice.
    return {place: [float(last[epoch][place]) for epoch in sorted(last)] for place in last[0]}


if __name__ == "__main__":
    main()
