"""`keras-glimpse train`: from a folder of images to a model, a report and files to deploy."""

import json
import os
import sys
from math import prod
from pathlib import Path

import keras

from keras_glimpse.command.folders import Images, images_of, one_size, read, split
from keras_glimpse.command.options import SIZE, add_command, at_least, complain, share
from keras_glimpse.command.report import check_pictures, write_report
from keras_glimpse.export import export_litert, export_saved_model
from keras_glimpse.export.files import complete_file
from keras_glimpse.model import GlimpseClassifier
from keras_glimpse.training.greedy import fit_greedy

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05
LARGEST_SEARCHED = 2**20  # Pixels of images in which all places are searched, rather than some.
DRAWN_PLACES = 32
BEGUN = "training.json"  # What a training was begun with.
OPTIONS = ("epochs", "fine_tune_epochs", "glimpses", "low_res_size", "patch_size", "batch_size", "seed")  # Of `BEGUN`
EXAMPLES = """\
  keras-glimpse train boards                    # boards/good/*.jpg, boards/scratched/*.jpg, ... to boards-model/
  keras-glimpse train slides --glimpses 3 --low-res-size 256 --search-samples 64 --output runs/slides
"""


def add_to(commands) -> None:
    about = "Train on a folder of images of any size, one sub-folder a class."
    interrupted = "the same command resumes after the last finished epoch"
    parser = add_command(commands, "train", train, about, EXAMPLES, interrupted)
    number = lambda name, default, least, text: parser.add_argument(  # noqa: E731
        name, type=at_least(least), default=default, help=f"{text}; default {default}"
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="one sub-folder a class")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder to write to; default FOLDER-model")
    parser.add_argument(
        "--validation-split", metavar="SHARE", type=share, default=0.1, help="of each class, held out; default %(default)s"
    )
    number("--seed", 0, 0, "of weights, order and the split")
    number("--epochs", 30, 1, "sweeps over the images for each glimpse")
    number("--fine-tune-epochs", 6, 0, "sweeps at the places that the model predicts, at the end")
    number("--glimpses", 1, 1, "how many times to look, at most")
    number("--low-res-size", 64, 1, "side of the thumbnail, in which what matters should be some 5 pixels wide")
    number("--patch-size", 48, 1, "side of a glimpse, in which what matters should fit")
    number("--batch-size", 16, 1, "images per step")
    parser.add_argument(
        "--channels", type=int, choices=(1, 3), help="convert to grey or colour; default the most that an image has"
    )
    parser.add_argument(
        "--search-samples",
        type=at_least(1),
        help="patches that a step reads of each image; default all places if images have one size of at most a megapixel, "
        f"else {DRAWN_PLACES}",
    )
    parser.add_argument("--export-size", **SIZE, help="size of the images of model.tflite; default that of all images")


def train(args) -> int:
    check_pictures()
    images = images_of(args.folder)
    output = _output(args)
    print(f"Reading {len(images.paths)} images of {len(images.classes)} classes in {args.folder}", flush=True)
    keras.utils.set_random_seed(args.seed)  # Before the model: a training that resumes begins with the same weights.
    sizes = {"low_res_size": args.low_res_size, "patch_size": args.patch_size}
    model = GlimpseClassifier.for_large_images(len(images.classes), args.glimpses, **sizes, class_names=images.classes)
    if args.export_size and any(side < least for side, least in zip(args.export_size, model.least_sides)):
        raise ValueError("--export-size must be at least {}x{}.".format(*model.least_sides))
    images, shapes, errors = read(images, args.channels, model.least_sides, model.low_res_net.size)
    for error in errors:
        complain(f"left out: {error}")
    parts = split(images, args.validation_split, args.seed)
    size = one_size(shapes)
    everywhere = size is not None and prod(size) <= LARGEST_SEARCHED
    model.search_samples = args.search_samples or (None if everywhere else DRAWN_PLACES)
    model.build((None, None, None, shapes[0][2]))
    _begin(output, args, model, parts)
    _fit(model, args, output, *parts)
    _keep(model, output, parts[1], args, args.export_size or size)
    return 1 if errors else 0


def _output(args):
    output = args.output or Path(f"{os.path.abspath(args.folder)}-model")
    if Path(os.path.abspath(output)).is_relative_to(os.path.abspath(args.folder)):
        raise ValueError(f"--output must not be in the folder of images, where it would be a class; got {output}.")
    if output.exists() and not (output / BEGUN).exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty, and nothing was trained there: choose another --output.")
    return output


def _begin(output, args, model, parts):
    """Keeps what this training begins with; an error if it has begun with something else."""
    names = [[Path(path).relative_to(args.folder).as_posix() for path in part.paths] for part in parts]
    begins = {name: getattr(args, name) for name in OPTIONS}
    begins |= {"search_samples": model.search_samples, "channels": model.channels}
    begins |= {"classes": parts[0].classes, "training": names[0], "validation": names[1]}
    path = output / BEGUN
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in begins if begins[name] != begun.get(name)]
        if changed:
            raise ValueError(f"{output} was begun with other {', '.join(changed)}: remove it, or choose another --output.")
        return
    output.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as scratch:
        scratch.write_text(json.dumps(begins, indent=1) + "\n", encoding="utf-8")


def _fit(model, args, output, training: Images, validation: Images):
    epochs = dict.fromkeys(range(1, args.glimpses + 1), args.epochs)
    if args.fine_tune_epochs:
        epochs["fine_tune"] = args.fine_tune_epochs
    fit_greedy(
        model,
        training.paths,
        training.labels,
        epochs=epochs,
        stages=list(epochs),
        optimizer=_adam,
        compile_args={"steps_per_execution": 1},  # Ctrl-C waits for the end of an execution.
        batch_size=args.batch_size,
        callbacks=lambda stage: [keras.callbacks.CSVLogger(output / f"log-{stage}.csv", append=True)],
        validation_data=(validation.paths, validation.labels),
        checkpoint=output / "checkpoints",
        verbose=1 if sys.stdout.isatty() else 2,
    )


def _adam(steps):
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    return keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY)


def _keep(model, output, validation: Images, args, size):
    with complete_file(output / "model.keras") as scratch:
        model.save(scratch)
    threshold = write_report(output / "report", model, validation, args.batch_size)
    (output / "saved_model").mkdir(exist_ok=True)
    export_saved_model(model, output / "saved_model" / "1", threshold)
    if size is None:
        complain("model.tflite is not written, since images differ in size: --export-size says which it is for.")
    else:
        export_litert(model, output / "model.tflite", threshold, image_shape=tuple(size))
    print(f"Wrote {', '.join(sorted(path.name for path in output.iterdir()))} to {output}/")
