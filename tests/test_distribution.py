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
def test_replicas_equal_one_device():
    """On four: eight steps of each stage, the last batch (6 of 8 images) uneven: the same weights and the same progress."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, "4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    assert max(differences["weights"]) < 1e-6, differences
    assert max(differences["logs"]) < 1e-5, differences


LARGE = """
import json, sys
import keras, numpy as np, tensorflow as tf
import keras_glimpse

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
images, labels = rng.random((16, 64, 48, 1), dtype=np.float32), rng.integers(0, 3, 16).astype(np.int32)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    keras.utils.set_random_seed(0)
    options = {"low_res_size": (16, 12), "patch_size": 16, "dtype": sys.argv[1]}
    model = keras_glimpse.GlimpseClassifier.for_large_images(3, **options)
    model.build((None, 64, 48, 1))
    model.compile(keras.optimizers.Adam(1e-3), stage=1)
    places = model.best_places(images, labels)
before = model.get_weights()
history = model.fit(images, labels, epochs=2, batch_size=8, verbose=0).history
kernel = model.glimpse_nets[0].output_layer.kernel.value
print(json.dumps({
    "finite": bool(np.isfinite([*history["loss"], *np.ravel(places)]).all()),
    "trained": float(max(np.abs(a - b).max() for a, b in zip(before, model.get_weights()))),
    "apart": float(np.abs(np.subtract(*[part.numpy() for part in strategy.experimental_local_results(kernel)])).max()),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_soft_assignment_on_two_replicas(policy):
    """Each replica draws places of its own; their weights stay the same."""
    done = subprocess.run([sys.executable, "-c", LARGE, policy], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["finite"] and found["trained"] > 1e-4 and found["apart"] == 0.0, found
