"""Several workers, each a process of its own, as on several hosts. Run as a program, this file is such a worker."""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_glimpse
from keras_glimpse.training import replicas

RECIPES = str(Path(__file__).parent.parent / "recipes" / "distributed")
LIMIT = 240.0  # seconds, for processes that take a tenth of it on cores that do nothing else


def train(strategy):
    """Eight steps of each stage, on arrays and on a dataset; the last batch has one image, so some workers have none."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images, labels = rng.random((57, 20, 24, 1), dtype=np.float32) - 0.5, rng.integers(0, 3, 57).astype(np.int32)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(57, seed=1).batch(8)
    data = {1: {"x": images, "y": labels, "batch_size": 8, "validation_data": (images, labels)}}
    data |= {2: {"x": dataset}, "fine_tune": {"x": dataset}}
    with strategy.scope():
        model = keras_glimpse.GlimpseClassifier(3, low_res_size=5, patch_size=6, hidden_units=16)
        model.build((None, 20, 24, 1))
    compile_args = {"metrics": ["accuracy"]} | ({"jit_compile": False} if strategy.num_replicas_in_sync == 1 else {})
    weights, logs = {}, {}
    for stage, arguments in data.items():
        history = keras_glimpse.fit_greedy(model, stages=[stage], compile_args=compile_args, verbose=0, **arguments)
        weights |= {f"{stage}-{i}": values for i, values in enumerate(model.get_weights())}
        logs[stage] = history[stage].history
    return weights, {f"{stage}-{name}": values for stage in logs for name, values in logs[stage].items()}


@pytest.fixture
def launcher():
    return importlib.import_module("launcher")


@pytest.mark.slow
def test_three_workers_equal_one(launcher, tmp_path):
    alone = train(tf.distribute.get_strategy())
    launcher.run([sys.executable, __file__, "work", tmp_path], 3, tmp_path, limit=LIMIT)
    weights, logs = alone
    for rank in range(3):
        theirs = np.load(tmp_path / f"{rank}.npz")
        assert {*theirs} == {*weights}
        for name in weights:
            np.testing.assert_allclose(theirs[name], weights[name], rtol=0, atol=1e-6, err_msg=name)
        for name, values in json.loads((tmp_path / f"{rank}.json").read_text()).items():
            np.testing.assert_allclose(values, logs[name], rtol=0, atol=1e-5, err_msg=name)


def test_a_worker_that_fails_ends_all(launcher, tmp_path):
    """Worker 0 would sleep for a minute; worker 1 fails once it does."""
    program = """if True:
        import json, os, pathlib, sys, time
        place, sleeper = json.loads(os.environ["TF_CONFIG"]), pathlib.Path(sys.argv[1])
        if place["task"]["index"] == 0:
            sleeper.with_name("new").write_text(str(os.getpid()))
            sleeper.with_name("new").rename(sleeper)
            time.sleep(60)
        while not sleeper.exists():
            time.sleep(0.01)
        sys.exit(f"No such thing, says one of {place['cluster']['worker']}")
    """
    said = r"Worker 1 \(process \d+\) ended with exit status 1.*No such thing.*'127.0.0.1:\d+', '127.0.0.1:\d+'"
    with pytest.raises(launcher.WorkerFailed, match=f"(?s){said}"):
        launcher.run([sys.executable, "-c", program, tmp_path / "sleeper"], 2, tmp_path, limit=50)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "sleeper").read_text()), 0)


def test_workers_that_never_end(launcher, tmp_path):
    with pytest.raises(launcher.WorkerFailed, match="had not ended after 0.2 seconds"):
        launcher.run([sys.executable, "-c", "import time; time.sleep(60)"], 2, tmp_path, limit=0.2)


def test_one_worker_has_no_others(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    launcher.run([sys.executable, "-c", "import os; assert 'TF_CONFIG' not in os.environ"], 1, tmp_path, limit=50)


@pytest.mark.parametrize(("option", "value"), [("--workers", "0"), ("--epochs", "none"), ("--restarts", "-1")])
def test_bad_arguments(launcher, monkeypatch, capsys, option, value):
    monkeypatch.setattr(sys, "argv", ["multi_worker", option, value])
    with pytest.raises(SystemExit):
        importlib.import_module("multi_worker").main()
    assert f"argument {option}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_worker_rejoins(launcher, tmp_path, capfd, monkeypatch):
    """One of two gets SIGKILL in the last stage, in its second epoch: in the end the weights are those of one worker."""
    arguments = ["--smoke", "--glimpses", "1", "--epochs", "2", "--out", str(tmp_path)]
    command = [sys.executable, __file__, "be_killed", *arguments]
    launcher.run(command, 2, tmp_path, restarts=1, limit=LIMIT)
    said = capfd.readouterr()
    assert "was killed by SIGKILL" in said.err and said.out.count("Stage 1:") == 2, said

    monkeypatch.setattr(sys, "argv", ["worker", *arguments])
    importlib.import_module("worker").main()
    table = [line.split() for line in capfd.readouterr().out.splitlines() if "│" in line]
    assert len(table) == 2 and table[0][5:8] == table[1][5:8], table  # The same errors, with one worker and with two.
    (folder,) = tmp_path.glob("smoke*")
    killed, alone = (keras.models.load_model(folder / f"workers{n}-replicas1" / "model.keras").get_weights() for n in (2, 1))
    for ours, theirs in zip(killed, alone):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


# ---- What the workers run ----


def work(folder):
    """Leaves what `train` gives in `folder`."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    rank = strategy.cluster_resolver.task_id
    for set_seed in (lambda: None, lambda: keras.utils.set_random_seed(rank)):
        set_seed()
        with pytest.raises(ValueError, match=r"All workers must shuffle alike.* seeds are \[(None, None|0, 1)"):
            replicas.check_same_seed(strategy)
    with strategy.scope(), pytest.raises(ValueError, match="jit_compile=True needs a single replica"):
        keras_glimpse.GlimpseClassifier(3).compile(jit_compile=True)
    weights, logs = train(strategy)
    np.savez(Path(folder) / f"{rank}.npz", **weights)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(logs))


def be_killed(*arguments):
    """The worker of the recipe; worker 1 is killed on its first run."""
    sys.path.insert(0, RECIPES)
    import worker

    class KilledOnce(keras_glimpse.data.Epoch):  # One of the callbacks of all workers.
        def on_train_batch_end(self, batch, logs=None):
            mark = Path(arguments[-1]) / "killed"
            in_second_epoch = self.model.optimizer.iterations > self.params["steps"]
            is_chief = self.model.distribute_strategy.extended.should_checkpoint
            if not self.model.stage.searches and in_second_epoch and not is_chief and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    keras_glimpse.data.Epoch = KilledOnce
    sys.argv = ["worker", *arguments]
    worker.main()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
