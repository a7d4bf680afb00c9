"""Real MNIST, where it is to be had: a brief training that must learn what the paper says can be learned."""

import numpy as np
import pytest

from keras_glimpse import GlimpseClassifier, cascade_predict, data, fit_greedy


@pytest.mark.slow
def test_glimpses_help_on_jittered_mnist(mnist):
    """A tenth of a sweep: far from the results of the recipes, and far from chance."""
    splits = data.jittered(mnist)
    model = GlimpseClassifier(num_classes=10, num_glimpses=1)
    history = fit_greedy(model, splits.train.take(1200), epochs=2, stages=[1], verbose=0)[1].history
    assert np.all(np.diff(history["loss"]) < 0) and history["moved_px"][-1] < history["moved_px"][0]
    scores = model.evaluate(splits.test, verbose=0, return_dict=True)
    assert scores["accuracy_1"] > 0.9 and scores["accuracy_1"] > scores["accuracy_0"] + 0.05
    assert scores["border_px"] > 5  # The location head follows the digits and has not saturated.

    labels = np.concatenate([labels for _, labels in splits.test])
    cascade = cascade_predict(model, splits.test, 0.95)
    accuracy = np.mean(cascade.probabilities.argmax(-1) == labels)
    assert accuracy > scores["accuracy_1"] - 0.02 and cascade.macs.mean() < 0.95 * 227_020
