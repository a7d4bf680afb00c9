"""`tf.distribute` on logical CPU devices, which must be made before TensorFlow starts: hence processes of their own."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import keras, numpy as np, tensorflow as tf
import keras_glimpse

replicas = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
rng = np.random.default_rng(0)
images, labels = rng.random((62, 20, 24, 1), dtype=np.float32), rng.integers(0, 3, 62).astype(np.int32)


def train(strategy, jit_compile):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras_glimpse.GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=8, search_size=5)
        model.build((None, 20, 24, 1))
    weights, logs = [], []
    for stage in (1, 2, "fine_tune"):  # The scope is left here, as Keras users do; the model remembers it.
        history = keras_glimpse.fit_greedy(
            model,
            images,
            labels,
            stages=[stage],
            batch_size=8,
            shuffle=False,
            verbose=0,
            callbacks=lambda stage: [keras_glimpse.SearchSchedule({0: 3})],
            compile_args={"jit_compile": jit_compile},
        )
        weights.append(model.get_weights())
        logs.append({name: values[0] for name, values in history[stage].history.items()})
    return weights, logs


one, one_logs = train(tf.distribute.get_strategy(), False)
many, many_logs = train(tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)]), "auto")
print(json.dumps({
    "weights": [max(float(np.abs(a - b).max()) for a, b in zip(*pair)) for pair in zip(one, many)],
    "logs": [max(abs(a[name] - b[name]) for name in a) for a, b in zip(one_logs, many_logs)],
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_equal_one_device(replicas):
    """Eight steps of each stage, the last batch (6 of 8 images) uneven: the same weights and the same progress."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(replicas)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    assert max(differences["weights"]) < 1e-6, differences
    assert max(differences["logs"]) < 1e-5, differences
