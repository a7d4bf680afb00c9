"""Prints the milliseconds an image that a model takes on one core; of LiteRT's, if that is there.

pip install -e ".[recipes,litert]"
python recipes/images/speed.py MODEL IMAGES [THRESHOLD]    # as run.py does: a .keras file, and images in a .npy file
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import tensorflow as tf

import keras_glimpse

ROUNDS = 7


def main():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model, images = keras.models.load_model(sys.argv[1], compile=False), np.load(sys.argv[2])
    threshold = float(sys.argv[3]) if sys.argv[3:] and sys.argv[3] else None
    options = {"runtime": "tensorflow"} if isinstance(model, keras_glimpse.GlimpseClassifier) else {}  # As in `predict`.
    net = tf.function(lambda batch: model(batch, training=False, **options))
    timed = {
        f"keras, batch {size}": _timed(lambda size=size: net(tf.constant(images[:size]))) / size for size in (1, len(images))
    }
    if threshold:
        cascade = lambda: keras_glimpse.cascade_predict(model, images, threshold)  # noqa: E731
        timed["keras, cascade"] = _timed(cascade) / len(images)
    timed |= _litert(model, images, threshold)
    print(json.dumps({name: round(1000 * seconds, 3) for name, seconds in timed.items()}))


def _litert(model, images, threshold):
    """Of one image at a time; the cascade's are the mean over the images."""
    try:
        import litert
    except ImportError:
        return {}
    floats = images.astype(np.float32) / (255 if isinstance(model, keras_glimpse.GlimpseClassifier) else 1)

    def seconds(file):
        def all_images():
            total = 0.0
            for image in floats:
                file.put(image[None])
                total += file.seconds()
            return total / len(floats)

        all_images()
        return median(all_images() for _ in range(3))

    if not isinstance(model, keras_glimpse.GlimpseClassifier):
        signature = [keras.InputSpec(shape=(1, *images.shape[1:]), dtype="float32")]
        write = lambda path: model.export(path, format="litert", input_signature=signature, verbose=False)  # noqa: E731
        return {"litert": seconds(litert.opened(write))}
    export = lambda threshold: lambda path: keras_glimpse.export_litert(model, path, threshold=threshold)  # noqa: E731
    named = {"litert": None} | ({"litert, cascade": threshold} if threshold else {})
    return {name: seconds(litert.opened(export(each))) for name, each in named.items()}


def _timed(run):
    run(), run()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


if __name__ == "__main__":
    main()
