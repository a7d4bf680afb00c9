"""A training that SIGKILL ends at a random moment, started again, ends with the very bits of one that was never killed.

HYPOTHESIS_PROFILE=thorough kills 20 trainings; -s shows when. Run as a program, this file is the training.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAGES = (1, 2, "fine_tune")
KILLS, EPOCHS = (20, 20) if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else (1, 4)  # Epochs of each stage.


def train(folder):
    """Two glimpses with dropout, all stages, on jittered digits at fresh places every epoch."""
    import keras

    import keras_glimpse
    from keras_glimpse import data

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(50, "relu"), keras.layers.Dropout(0.3), keras.layers.Dense(10)]
    model = keras_glimpse.GlimpseClassifier(10, 2, hidden_units=50, glimpse_net=keras.Sequential(layers))
    digits = data.jittered(data.embedded_digits(), copies=2, fresh_places=True).train
    how = {"compile_args": {"jit_compile": False}, "verbose": 0}  # XLA would compile for longer than this trains.
    keras_glimpse.fit_greedy(model, digits, epochs=EPOCHS, checkpoint=folder, **how)
    (folder / "weights").write_bytes(b"".join(weights.tobytes() for weights in model.get_weights()))


def command(folder):
    return [sys.executable, __file__, folder]


def final_weights(folder) -> bytes:
    subprocess.run(command(folder), check=True)
    return (folder / "weights").read_bytes()


def kill_once(folder, rng):
    """Kills the training at a random moment after a random number of epochs; tells how far it had come."""
    wanted, delay = rng.randrange(len(STAGES) * EPOCHS), rng.uniform(0, 0.2)
    with subprocess.Popen(command(folder)) as process:
        while sum(progress(folder)) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay if wanted else 50 * delay)  # Before the first epoch, a program starts and graphs are compiled.
        process.kill()
    return progress(folder)


def progress(folder):
    """Epochs that are finished, for each stage that has begun."""
    begun = [each for each in (folder / f"stage_{stage}" for stage in STAGES) if each.exists()]
    files = [sorted(each.glob("checkpoint-*")) for each in begun]
    return [int(each[-1].stem.split("-")[1]) if each else 0 for each in files]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return final_weights(tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_training_resumes_bit_by_bit(uninterrupted, tmp_path, seed):
    print("killed after epochs of each stage:", kill_once(tmp_path, random.Random(seed)))
    assert final_weights(tmp_path) == uninterrupted


if __name__ == "__main__":
    train(Path(sys.argv[1]))
