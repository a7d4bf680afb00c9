"""`keras-glimpse export`: a model as a file for servers, phones and browsers."""

from pathlib import Path

import numpy as np

from keras_glimpse.command.options import SIZE, add_command, complain, files_of, load, threshold
from keras_glimpse.export import export_litert, export_mediapipe, export_onnx, export_saved_model
from keras_glimpse.sources.image import UnreadableImage
from keras_glimpse.sources.opening import open_image

MOST_IMAGES = 300
EXAMPLES = """\
  keras-glimpse export boards-model/model.keras --saved-model served/1 --threshold 0.9
  keras-glimpse export boards-model/model.keras --litert model.tflite --threshold 0.9 --size 480 640
  keras-glimpse export boards-model/model.keras --litert small.tflite --size 480 640 --quantize int8 --images boards/
  keras-glimpse export jittered-mnist --saved-model served/1 --images digits/     # With warm-up requests
  keras-glimpse export jittered-mnist --onnx digits.onnx
  keras-glimpse export jittered-mnist --mediapipe digits.tflite
"""


def add_to(commands) -> None:
    about = "Export a model, with the early exit inside the file if there is a threshold."
    parser = add_command(commands, "export", export, about, EXAMPLES, "nothing was written")
    parser.add_argument("model", metavar="MODEL", help="a .keras file, the name of a model of the package, or hf://user/name")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--saved-model", metavar="DIR", type=Path, help="for TensorFlow Serving; takes images of any size if the model does"
    )
    kind.add_argument("--litert", metavar="FILE", type=Path, help="for phones and browsers")
    kind.add_argument("--mediapipe", metavar="FILE", type=Path, help="for MediaPipe's image classifier, without early exit")
    kind.add_argument("--onnx", metavar="FILE", type=Path, help="for ONNX Runtime")
    parser.add_argument("--threshold", type=threshold, help="confidence at which to stop; default all glimpses")
    parser.add_argument("--size", **SIZE, help="size of the images that a file is for, if the model takes any")
    parser.add_argument("--quantize", choices=("float16", "dynamic", "int8"), help="a smaller file for LiteRT or MediaPipe")
    what = "images to calibrate int8 with, or to write warm-up requests of a --saved-model; averaged to the size if larger"
    parser.add_argument("--images", metavar="FOLDER", help=what)


def export(args) -> int:
    if args.quantize and not (args.litert or args.mediapipe):
        raise ValueError("--quantize is for --litert and --mediapipe.")
    if args.threshold and args.mediapipe:
        raise ValueError("--threshold is not for --mediapipe: MediaPipe runs all glimpses.")
    if bool(args.images) != (args.quantize == "int8") and not args.saved_model:
        raise ValueError("--images is needed with --quantize int8, and else only for --saved-model.")
    if args.size and args.saved_model:
        raise ValueError("--size is for --litert, --mediapipe and --onnx.")
    model = load(args.model)
    size = args.size and tuple(args.size)
    if size is None and None in model.image_shape and not args.saved_model:
        raise ValueError("--size says which images the file is for, since the model takes any.")
    if None in model.image_shape and args.saved_model and args.images:
        raise ValueError("--images of a --saved-model need a model for images of one size.")
    images = args.images and _some_images(model, args.images, size)
    if args.saved_model:
        args.saved_model.parent.mkdir(exist_ok=True)  # Of the versions of a model, as TensorFlow Serving wants them.
        export_saved_model(model, args.saved_model, args.threshold, warmup=images)
    elif args.onnx:
        export_onnx(model, args.onnx, args.threshold, image_shape=size)
    else:
        quantized = {"quantize": args.quantize, "calibration": images}
        if args.mediapipe:
            export_mediapipe(model, args.mediapipe, image_shape=size, **quantized)
        else:
            export_litert(model, args.litert, args.threshold, image_shape=size, **quantized)
    print(f"Wrote {args.saved_model or args.litert or args.mediapipe or args.onnx}")
    return 0


def _some_images(model, folder, size):
    """Some images of a folder, as an array."""
    files = files_of([folder])
    few = [files[n] for n in np.linspace(0, len(files) - 1, min(MOST_IMAGES, len(files)), dtype=int)]
    *sides, channels = model.image_shape
    images = []
    for path in few:
        try:
            images.append(open_image(path, channels).thumbnail(size or tuple(sides)))
        except UnreadableImage as error:
            complain(f"left out: {error}")
    if not images:
        raise ValueError(f"There are no images in {folder} that can be read.")
    return (255 if model.preprocess else 1) * np.stack(images)
