"""Every public layer and the model, in the forms that tests put through everything: what is checked, apart from the checks."""

import keras
import numpy as np

from keras_glimpse import (
    Backbone,
    ConvGlimpseNet,
    ConvLowResNet,
    GlimpseClassifier,
    GlimpseNet,
    LocationHead,
    LocationMap,
    LowResNet,
    MultiScaleCrop,
    Thumbnail,
)


def backbone():
    """A model of colour images, with batch normalisation."""
    layers = [keras.layers.Conv2D(6, 3, 2, padding="same"), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    return keras.Sequential([keras.Input((None, None, 3)), *layers])


LAYERS = {
    "low_res": (LowResNet(3, 4, 8), [(20, 24, 2)]),
    "low_res_deep": (LowResNet(3, (5, 6), (8, 7), "bilinear"), [(20, 24, 1)]),
    "low_res_strided": (LowResNet(3, 6, 8, "strided"), [(21, 25, 1)]),
    "thumbnail": (Thumbnail((5, 6)), [(20, 24, 2)]),
    "location": (LocationHead(), [(8,), (3,)]),
    "location_gated": (LocationHead(gated=True), [(8,), (3,)]),
    "crop": (MultiScaleCrop(5, (1, 2)), [(20, 24, 3), (2,)]),
    "glimpse": (GlimpseNet(3, 8), [(6, 6, 2)]),
    "glimpse_gated": (GlimpseNet(3, (8, 7), gated=True), [(6, 6, 2), (2,)]),
    "low_res_conv": (ConvLowResNet(3, (8, 12), (4, 5), hidden_units=6), [(20, 24, 2)]),
    "low_res_backbone": (ConvLowResNet(3, 8, backbone=Backbone(backbone())), [(20, 24, 1)]),
    "location_map": (LocationMap(4), [(3, 4, 6), (3,)]),
    "glimpse_conv": (ConvGlimpseNet(3, 2, (4, 5), (0, 1), 6), [(10, 10, 2)]),
    "glimpse_backbone": (ConvGlimpseNet(3, 2, backbone=Backbone(backbone(), keras.layers.Rescaling(1 / 255))), [(6, 6, 6)]),
    "backbone": (Backbone(backbone(), "mobilenet_v2"), [(8, 9, 3)]),
}
MODELS = {
    "model": {},
    "model_shared": {
        "share_weights": True,
        "parallel": True,
        "averaging": "uniform",
        "location_input": "probabilities",
    },
    "model_gated": {
        "gated_location": True,
        "gated_glimpse": True,
        "num_glimpses": 3,
        "parallel": 2,
        "scales": (1, 2, 3),
    },
    "model_conv": {
        "patch_size": 8,
        "low_res_net": ConvLowResNet(3, 8, (4, 5)),
        "glimpse_net": ConvGlimpseNet(3, 2, (4, 5), (0,), 6),
        "location_head": LocationMap(4),
        "search_size": "image",
        "assignment": "soft",
    },
}


NETWORKS = ("low_res_net", "glimpse_net", "location_head")


def inputs(shapes, seed=0, batch=5):
    rng = np.random.default_rng(seed)
    return [rng.random((batch, *shape), dtype=np.float32) for shape in shapes]


def as_model(name):
    """The layer as a functional model, or the model itself, and inputs for it."""
    if name in MODELS:
        arguments = {"num_classes": 3, "low_res_size": 5, "patch_size": 6, "hidden_units": 8} | MODELS[name]
        fresh = {name: type(each).from_config(each.get_config()) for name, each in arguments.items() if name in NETWORKS}
        model = GlimpseClassifier(**arguments | fresh)
        shapes = [(20, 24, 1)]
        model(*inputs(shapes))
        return model, shapes
    layer, shapes = LAYERS[name]
    layer = type(layer).from_config(layer.get_config())
    arguments = [keras.Input(shape) for shape in shapes]
    return keras.Model(arguments if len(arguments) > 1 else arguments[0], layer(*arguments)), shapes


def flat(outputs):
    return [np.asarray(output, np.float32) for output in keras.tree.flatten(outputs)]


def call(model, values):
    return model(values[0] if len(values) == 1 else values)


EVERYTHING = [*LAYERS, *MODELS]
