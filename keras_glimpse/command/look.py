"""`keras-glimpse look`: the class of each image, and what it has cost to see."""

import os
from collections.abc import Iterator
from pathlib import Path

from keras_glimpse.cascade.macs import known_stage_macs
from keras_glimpse.cascade.sources import predictions, row_of, rows_of, rows_to_csv
from keras_glimpse.command.options import add_command, at_least, complain, files_of, load, say, threshold
from keras_glimpse.export.files import complete_file
from keras_glimpse.pictures import draw_glimpses
from keras_glimpse.sources.image import UnreadableImage

EXAMPLES = """\
  keras-glimpse look boards-model/model.keras new-boards/
  keras-glimpse look boards-model/model.keras new-boards/ --threshold 0.8 --csv results.csv --draw pictures/
  keras-glimpse look jittered-mnist digit.png
"""


def add_to(commands) -> None:
    about = "Classify images, of which only what is looked at is read."
    interrupted = "with --csv, the same command goes on where this one stopped"
    parser = add_command(commands, "look", look, about, EXAMPLES, interrupted)
    parser.add_argument("model", metavar="MODEL", help="a .keras file, the name of a model of the package, or hf://user/name")
    parser.add_argument("files", metavar="FILE", nargs="+", help="an image, or a folder: all files in it are looked at")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the results there as they come; go on if it exists")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw there where the model looked in each image")
    parser.add_argument("--threshold", type=threshold, default=0.95, help="confidence at which to stop; default %(default)s")
    parser.add_argument("--batch-size", type=at_least(1), default=32, help="images at a time; default %(default)s")


def look(args) -> int:
    model = load(args.model)
    files = [file for file in files_of(args.files) if not _is_own(args, file)]
    if not files:
        raise ValueError("There are no images beside the results of --csv and --draw.")
    base = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    seen, problems = [], 0
    for row in _rows(args, model, files):
        try:
            if row["error"]:
                raise UnreadableImage(row["error"])
            say(_line(row))
            seen.append(row)
            if args.draw:
                _draw(model, row["image"], _picture(args.draw, row["image"], base), keep=args.csv is not None)
        except UnreadableImage as error:
            complain(error)
            problems += 1
    say(_summary(model, seen, problems))
    return 1 if problems else 0


def _is_own(args, file):
    """Whether a file was written by this command, in a folder of images."""
    path, results, pictures = (each and Path(os.path.abspath(each)) for each in (file, args.csv, args.draw))
    return path == results or pictures is not None and path.is_relative_to(pictures)


def _rows(args, model, files) -> Iterator[dict[str, str]]:
    """What was found in each image, as it comes; with a file, first what that had."""
    options = args.threshold, args.batch_size
    if args.csv is None:
        for found in predictions(model, files, *options, "skip"):
            yield row_of(model, found)
        return
    wanted, before = set(files), rows_of(args.csv)
    following = rows_to_csv(model, files, args.csv, *options)
    yield from (row for row in before if row["image"] in wanted)
    yield from following


def _line(row):
    places = row["places"].split("; ") if row["places"] else []
    looked = f"{_glimpses(len(places))} at {', '.join(places)}" if places else "thumbnail alone"
    costs = [f"{int(row[column]):,} {what}" for column, what in (("macs", "MACs"), ("bytes_read", "bytes read")) if row[column]]
    return "; ".join([f"{row['image']}: {row['class']} ({row['confidence']})", looked, *costs])


def _summary(model, rows, unreadable):
    parts = [f"{len(rows)} image{'s' * (len(rows) != 1)}", f"{unreadable} unreadable"]
    if rows:
        mean, macs = f"on average {_mean(rows, 'glimpses'):.2f} glimpses", known_stage_macs(model)
        if macs is not None:
            cost = _mean(rows, "macs")
            mean += f" and {cost:,.0f} MACs, {cost / macs[-1]:.1%} of the cost of {_glimpses(model.active_glimpses)}"
        parts.append(mean)
    return "; ".join(parts)


def _mean(rows, column):
    return sum(int(row[column]) for row in rows) / len(rows)


def _glimpses(count):
    return f"{count} glimpse{'s' * (count != 1)}"


def _picture(folder, image, base):
    """The picture of an image, which lies in `folder` as the image does in `base`: so no two have the same."""
    return folder / (os.path.relpath(os.path.abspath(image), base) + ".png")


def _draw(model, image, path, keep):
    if keep and path.exists():  # From before an interruption.
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as scratch:
        draw_glimpses(model, [image], path=scratch)
