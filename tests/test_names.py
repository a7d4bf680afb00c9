"""The names that other code calls: all of them stay, and each says what it is."""

import keras_glimpse
from keras_glimpse import data

PUBLIC = {
    *("GlimpseClassifier", "LowResNet", "LocationHead", "MultiScaleCrop", "GlimpseNet"),
    *("fit_greedy", "paper_sgd", "SearchSchedule", "Checkpoints"),
    *("cascade_predict", "CascadePrediction", "cascade_curve", "CascadeCurve", "count_macs", "stage_macs"),
    *("export_saved_model", "export_litert", "export_onnx", "check_file"),
    *("draw_glimpses", "load_pretrained", "pretrained_folder", "data"),
}
OF_DATA = {"Digits", "Epoch", "Splits", "embedded_digits", "jittered", "jittered_mnist", "mnist", "mnist_digits", "plain"}
MODULES = {"cascade", "evidence", "export", "layers", "model", "networks", "ops", "attributes", "tracing", "training"}
MODULES |= {"pictures", "pretrained", "quantization", "version"}


def names_of(module):
    return {name for name in vars(module) if not name.startswith("_")}


def test_names_of_the_package():
    assert names_of(keras_glimpse) - MODULES == PUBLIC
    assert names_of(data) - {"digits", "pipelines"} == OF_DATA


def test_each_name_has_a_docstring_of_its_own():
    for module, names in ((keras_glimpse, PUBLIC - {"data"}), (data, OF_DATA)):
        for name in names:
            found = getattr(module, name)
            assert found.__doc__ and not found.__doc__.startswith(f"{name}("), name  # What NamedTuple writes by itself.
    for method in ("compile", "fit", "evaluate", "predict", "look", "quantize", "export", "save", "train_on_batch"):
        assert getattr(keras_glimpse.GlimpseClassifier, method).__doc__, method
