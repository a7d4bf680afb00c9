"""The step of the paper's protocol as others would write it, to compare `model.fit` with.

All train the same networks on the same batches, from the same weights, by SGD with momentum. `fused` is one XLA program
written for this one setting and nothing else; `matrix_products` is what that program cannot do without; `Straightforward` is
the paper in everyday Keras. Weights are a dict of lists of arrays, as `weights_of` takes them from a `GlimpseClassifier`.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

RATE, MOMENTUM = 0.01, 0.9
WEIGHT, DIVERSITY, VARIANCE = 10.0, 0.01, 0.002  # lambda, gamma, sigma^2
PIXELS = np.stack(np.meshgrid([-2, 0, 2], [-2, 0, 2], indexing="ij"), axis=-1).reshape(-1, 2)
OFFSETS = (PIXELS / 47).astype("float32")


def weights_of(model) -> dict[str, list]:
    """The weights of a `GlimpseClassifier` of two glimpses, by network."""
    layers = {"low_res": model.low_res_net}
    for n in (0, 1):
        layers |= {f"head{n + 1}": model.location_heads[n], f"net{n + 1}": model.glimpse_nets[n]}
    return {name: layer.get_weights() for name, layer in layers.items()}


def trained_in(stage: int) -> list[str]:
    return ["low_res", "head1", "net1"] if stage == 1 else ["head2", "net2"]


def fused(weights: dict, stage: int) -> Callable:
    """A loop of training steps as one XLA program: a function of images `[steps, batch, 48, 48, 1]` and labels."""
    fixed = {name: [tf.constant(w) for w in weights[name]] for name in weights if name not in trained_in(stage)}
    trained = {name: [tf.Variable(w) for w in weights[name]] for name in trained_in(stage)}
    velocity = tf.nest.map_structure(lambda w: tf.Variable(tf.zeros_like(w)), trained)

    @tf.function(jit_compile=True)
    def loop(images, labels):
        def step(i, _, now, moving):
            with tf.GradientTape() as tape:
                tape.watch(now)
                loss = _loss(tf.gather(images, i), tf.gather(labels, i), fixed | now, stage)
            gradients = tape.gradient(loss, now)
            moving = tf.nest.map_structure(lambda v, g: MOMENTUM * v - RATE * g, moving, gradients)
            return i + 1, loss, tf.nest.map_structure(tf.add, now, moving), moving

        start = [tf.nest.map_structure(lambda w: w.read_value(), each) for each in (trained, velocity)]
        _, loss, *end = tf.while_loop(lambda i, *_: i < len(images), step, (0, 0.0, *start))
        tf.nest.map_structure(lambda w, value: w.assign(value), [trained, velocity], end)
        return loss

    return loop


def _loss(images, labels, w, stage):
    images = tf.cast(images[..., 0], tf.float32) / 255.0
    hidden = tf.nn.relu(tf.reshape(_shrink(images, 4), [-1, 144]) @ w["low_res"][0] + w["low_res"][1])
    low_res = hidden @ w["low_res"][2] + w["low_res"][3]
    place = _place(hidden, low_res, w["head1"])
    before, share, net = low_res, 1.0, w["net1"]
    penalty = WEIGHT / 2 * tf.reduce_sum(OFFSETS**2, axis=-1)[None, :, None]
    if stage == 1:
        penalty -= tf.nn.log_softmax(low_res)[:, None]
    else:
        first = _net(_patches(_crop(images, place, 24), 1), net)[:, 0]
        earlier, place = place, _place(hidden, low_res + first, w["head2"])
        before, share, net = low_res + first / 2, 0.5, w["net2"]
        distance = tf.reduce_sum((place[:, None] + OFFSETS - earlier[:, None]) ** 2, axis=-1)
        penalty += DIVERSITY * tf.exp(-0.5 * distance / VARIANCE)[..., None]

    patches = _patches(_crop(images, place, 28), 3)
    loss = penalty - tf.nn.log_softmax(before[:, None] + share * _net(patches, net))
    correct = tf.cast(tf.one_hot(labels, 10), tf.bool)[:, None]
    best = tf.argmin(tf.reduce_min(tf.where(correct, loss, np.inf), axis=-1), axis=-1)
    offending = tf.argmin(tf.reduce_min(tf.where(correct, np.inf, loss), axis=-1), axis=-1)
    chosen = tf.gather(patches, tf.stack([best, offending], axis=1), axis=1, batch_dims=1)
    target = tf.stop_gradient(place) + tf.gather(OFFSETS, best)

    total = _entropy(before[:, None] + share * _net(chosen, net), labels[:, None])
    total += WEIGHT / 2 * tf.reduce_sum((place - target) ** 2)
    if stage == 1:
        return (total + _entropy(low_res, labels)) / len(images)
    distance = tf.reduce_sum((target - earlier) ** 2, axis=-1)
    return (total + DIVERSITY * tf.reduce_sum(tf.exp(-0.5 * distance / VARIANCE))) / len(images)


def _shrink(images, by):
    height, width = images.shape[1:]
    return tf.reduce_mean(tf.reshape(images, [-1, height // by, by, width // by, by]), axis=[2, 4])


def _place(hidden, logits, head):
    return tf.sigmoid(hidden @ head[0] + logits @ head[2] + head[1])


def _crop(images, place, size):
    """The window of `size` pixels around each place, by matrices that interpolate rows and columns."""
    start = tf.stop_gradient(place) * 47 - (size - 1) / 2
    position = start[:, :, None] + tf.range(size, dtype=tf.float32)
    tents = tf.nn.relu(1 - tf.abs(position[..., None] - tf.range(48, dtype=tf.float32)))
    tents = tf.where(((position >= 0) & (position <= 47))[..., None], tents, 0.0)
    return tf.matmul(tf.matmul(tents[:, 0], images), tents[:, 1], transpose_b=True)


def _patches(window, count):
    """Both scales at `count` x `count` places, `[batch, count^2, 288]`."""
    coarse = _shrink(window, 2)
    places = [(i, j) for i in range(count) for j in range(count)]
    edge = 6
    fine = [window[:, edge + 2 * i : edge + 12 + 2 * i, edge + 2 * j : edge + 12 + 2 * j] for i, j in places]
    both = [tf.stack([a, coarse[:, i : i + 12, j : j + 12]], axis=-1) for a, (i, j) in zip(fine, places)]
    return tf.reshape(tf.stack(both, axis=1), [-1, len(places), 288])


def _net(patches, net):
    hidden = tf.nn.relu(tf.reshape(patches, [-1, 288]) @ net[0] + net[1])
    return tf.reshape(hidden @ net[2] + net[3], [-1, patches.shape[1], 10])


def _entropy(logits, labels):
    return -tf.reduce_sum(tf.one_hot(labels, 10) * tf.nn.log_softmax(logits))


def matrix_products(batch: int, stage: int, steps: int) -> Callable:
    """A loop, as one XLA program, of the matrix products of a step and nothing else."""
    shapes = [(144, 500), (500, 10), (288, 500), (500, 10)]
    weights = [tf.random.stateless_normal(shape, [1, 2]) * 0.01 for shape in shapes]
    inputs = tf.random.stateless_uniform([9 * batch, 288], [3, 4])

    def backward(x, hidden, output, w1, w2):
        """The products of back-propagation: both weights' gradients, and the hidden layer's between them."""
        inner = tf.matmul(output, w2, transpose_b=True)
        return tf.matmul(x, inner, transpose_a=True), tf.matmul(hidden, output, transpose_a=True)

    @tf.function(jit_compile=True)
    def loop():
        def step(i, w1, w2, v1, v2):
            thumbnails = inputs[:batch, :144]
            hidden = thumbnails @ w1
            low_res = hidden @ w2
            if stage == 2:
                v1 += 1e-9 * tf.reduce_max((inputs[:batch] @ v1) @ v2)  # The first glimpse.
            tried = (inputs @ v1) @ v2
            chosen = inputs[: 2 * batch]
            features = chosen @ v1
            output = features @ v2
            dv1, dv2 = backward(chosen, features, output, v1, v2)
            w1 *= 1 + 1e-30 * tf.reduce_max(tried)  # Nothing is left out as unused, or taken out of the loop as constant.
            if stage == 1:
                dw1, dw2 = backward(thumbnails, hidden, low_res, w1, w2)
                w1, w2 = w1 - 1e-9 * dw1, w2 - 1e-9 * dw2
            else:
                w2 *= 1 + 1e-30 * tf.reduce_max(low_res)
            return i + 1, w1, w2, v1 - 1e-9 * dv1, v2 - 1e-9 * dv2

        return tf.while_loop(lambda i, *_: i < steps, step, (0, *weights))[1:]

    return loop


class Straightforward(keras.Model):
    """The paper in everyday Keras: nine crops at each scale, and a tape around everything."""

    def __init__(self, stage: int, weights: dict):
        super().__init__()
        dense = keras.layers.Dense
        self.stage = stage
        self.mean_loss = keras.metrics.Mean("loss")
        self.features = keras.Sequential([keras.Input((144,)), dense(500, "relu")])
        self.classes = keras.Sequential([keras.Input((500,)), dense(10)])
        self.head_features = [keras.Sequential([keras.Input((500,)), dense(2)]) for _ in range(2)]
        self.head_classes = [keras.Sequential([keras.Input((10,)), dense(2, use_bias=False)]) for _ in range(2)]
        self.nets = [keras.Sequential([keras.Input((288,)), dense(500, "relu"), dense(10)]) for _ in range(2)]
        self.features.set_weights(weights["low_res"][:2])
        self.classes.set_weights(weights["low_res"][2:])
        for n in range(2):
            self.head_features[n].set_weights(weights[f"head{n + 1}"][:2])
            self.head_classes[n].set_weights(weights[f"head{n + 1}"][2:])
            self.nets[n].set_weights(weights[f"net{n + 1}"])
        first = [self.features, self.classes, self.head_features[0], self.head_classes[0], self.nets[0]]
        for part in first if stage == 2 else [self.head_features[1], self.head_classes[1], self.nets[1]]:
            part.trainable = False
        self.built = True

    def patches(self, images, location):
        patches = []
        for size in (12, 24):
            start = location * 47 - (size - 1) / 2
            boxes = ops.concatenate([start, start + size - 1], axis=1) / 47
            patch = tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), [size, size])
            patches.append(ops.average_pool(patch, 2) if size == 24 else patch)
        return ops.reshape(ops.concatenate(patches, axis=-1), (-1, 288))

    def place(self, n, hidden, logits):
        return ops.sigmoid(self.head_features[n](hidden) + self.head_classes[n](logits))

    def train_step(self, data):
        images, labels = data
        images = ops.cast(images, "float32") / 255.0
        with tf.GradientTape() as tape:
            hidden = self.features(ops.reshape(ops.average_pool(images, 4), (-1, 144)))
            logits = before = self.classes(hidden)
            place, share, earlier = self.place(0, hidden, logits), 1.0, None
            if self.stage == 2:
                first = self.nets[0](self.patches(images, place))
                earlier, place = place, self.place(1, hidden, logits + first)
                before, share = logits + first / 2, 0.5
            best, offending = self.search(images, labels, logits, before, share, place, earlier)
            loss = keras.losses.sparse_categorical_crossentropy(labels, best, from_logits=True)
            loss += keras.losses.sparse_categorical_crossentropy(labels, offending, from_logits=True) + self.moved
            if self.stage == 1:
                loss += keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            loss = ops.mean(loss)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        self.mean_loss.update_state(loss)
        return {"loss": self.mean_loss.result()}

    def search(self, images, labels, logits, before, share, place, earlier):
        tried, penalties = [], []
        for offset in OFFSETS:
            candidate = ops.stop_gradient(place) + offset
            tried.append(before + share * self.nets[self.stage - 1](self.patches(images, candidate)))
            penalty = WEIGHT / 2 * ops.sum((place - candidate) ** 2, axis=-1)
            if earlier is not None:
                penalty += DIVERSITY * ops.exp(-0.5 * ops.sum((candidate - earlier) ** 2, axis=-1) / VARIANCE)
            penalties.append(penalty)
        tried, penalties = ops.stack(tried, axis=1), ops.stack(penalties, axis=1)
        loss = penalties[..., None] - ops.log_softmax(tried)
        if self.stage == 1:
            loss -= ops.log_softmax(logits)[:, None]
        correct = ops.one_hot(labels, 10, dtype="bool")[:, None]
        best = ops.argmin(ops.min(ops.where(correct, loss, np.inf), axis=-1), axis=-1)
        offending = ops.argmin(ops.min(ops.where(correct, np.inf, loss), axis=-1), axis=-1)
        self.moved = tf.gather(penalties, best, batch_dims=1)
        return tf.gather(tried, best, batch_dims=1), tf.gather(tried, offending, batch_dims=1)
