"""The step of the paper's protocol in TensorFlow alone, to compare `model.fit` with; in PyTorch: `contender_torch.py`.

All train the same networks on the same batches, from the same weights, by SGD with momentum. `fused` is one XLA program for
this one setting and nothing else; `matrix_products` is what that program cannot do without; `Straightforward` is the same
step by `keras.Model.fit`: a crop for each candidate and scale, and a gradient through everything. Weights are a dict of
lists of arrays, as `weights_of` takes them from a `GlimpseClassifier`.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

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


def _loss(images, labels, w, stage, straightforward=False):
    """Eqs. 16 (stage 1) and 17 with 18 (stage 2), with the search of eqs. 12 and 15."""
    images = tf.cast(images[..., 0], tf.float32) / 255.0
    look = _crops if straightforward else _slices
    hidden = tf.nn.relu(tf.reshape(_shrink(images, 4), [-1, 144]) @ w["low_res"][0] + w["low_res"][1])
    low_res = hidden @ w["low_res"][2] + w["low_res"][3]
    place = _place(hidden, low_res, w["head1"])
    before, share, net = low_res, 1.0, w["net1"]
    penalty = WEIGHT / 2 * tf.reduce_sum(OFFSETS**2, axis=-1)[None, :, None]
    if stage == 1:
        penalty -= tf.nn.log_softmax(low_res)[:, None]
    else:
        first = _net(look(images, place, 1), net)[:, 0]
        earlier, place = place, _place(hidden, low_res + first, w["head2"])
        before, share, net = low_res + first / 2, 0.5, w["net2"]
        penalty += _near(place[:, None] + OFFSETS, earlier[:, None])[..., None]

    patches = look(images, place, 3)
    tried = before[:, None] + share * _net(patches, net)
    loss = penalty - tf.nn.log_softmax(tried)
    correct = tf.cast(tf.one_hot(labels, 10), tf.bool)[:, None]
    best = tf.argmin(tf.reduce_min(tf.where(correct, loss, np.inf), axis=-1), axis=-1)
    offending = tf.argmin(tf.reduce_min(tf.where(correct, np.inf, loss), axis=-1), axis=-1)
    chosen = tf.stack([best, offending], axis=1)
    if straightforward:
        logits = tf.gather(tried, chosen, axis=1, batch_dims=1)
    else:
        logits = before[:, None] + share * _net(tf.gather(patches, chosen, axis=1, batch_dims=1), net)
    target = tf.stop_gradient(place) + tf.gather(OFFSETS, best)

    total = _entropy(logits, labels[:, None]) + WEIGHT / 2 * tf.reduce_sum((place - target) ** 2)
    total += _entropy(low_res, labels) if stage == 1 else tf.reduce_sum(_near(target, earlier))
    return total / tf.cast(tf.shape(images)[0], tf.float32)


def _shrink(images, by):
    height, width = images.shape[1:]
    return tf.reduce_mean(tf.reshape(images, [-1, height // by, by, width // by, by]), axis=[2, 4])


def _place(hidden, logits, head):
    return tf.sigmoid(hidden @ head[0] + logits @ head[2] + head[1])


def _near(place, earlier):
    return DIVERSITY * tf.exp(-0.5 * tf.reduce_sum((place - earlier) ** 2, axis=-1) / VARIANCE)


def _slices(images, place, count):
    """Both scales at `count` x `count` places, `[batch, count^2, 288]`: slices of one window, which matrices interpolate."""
    size, places = 22 + 2 * count, [(i, j) for i in range(count) for j in range(count)]
    start = tf.stop_gradient(place) * 47 - (size - 1) / 2
    position = start[:, :, None] + tf.range(size, dtype=tf.float32)
    tents = tf.nn.relu(1 - tf.abs(position[..., None] - tf.range(48, dtype=tf.float32)))
    tents = tf.where(((position >= 0) & (position <= 47))[..., None], tents, 0.0)
    window = tf.matmul(tf.matmul(tents[:, 0], images), tents[:, 1], transpose_b=True)
    fine = [window[:, 6 + 2 * i : 18 + 2 * i, 6 + 2 * j : 18 + 2 * j] for i, j in places]
    coarse = _shrink(window, 2)
    both = [tf.stack([patch, coarse[:, i : i + 12, j : j + 12]], axis=-1) for patch, (i, j) in zip(fine, places)]
    return tf.reshape(tf.stack(both, axis=1), [-1, len(places), 288])


def _crops(images, place, count):
    """The same by a crop for each place and scale."""

    def crop(centre, size):
        start = centre * 47 - (size - 1) / 2
        boxes = tf.concat([start, start + size - 1], axis=1) / 47
        return tf.image.crop_and_resize(images[..., None], boxes, tf.range(tf.shape(images)[0]), [size, size])[..., 0]

    centres = [tf.stop_gradient(place) + offset for offset in (OFFSETS if count == 3 else [0.0])]
    patches = [tf.stack([crop(centre, 12), _shrink(crop(centre, 24), 2)], axis=-1) for centre in centres]
    return tf.reshape(tf.stack(patches, axis=1), [-1, len(centres), 288])


def _net(patches, net):
    hidden = tf.nn.relu(tf.reshape(patches, [-1, 288]) @ net[0] + net[1])
    return tf.reshape(hidden @ net[2] + net[3], [-1, patches.shape[1], 10])


def _entropy(logits, labels):
    return -tf.reduce_sum(tf.one_hot(labels, 10) * tf.nn.log_softmax(logits))


class Straightforward(keras.Model):
    """Trains by Keras's own `fit`, with what is public in Keras and TensorFlow and no thought of speed."""

    def __init__(self, weights: dict, stage: int):
        super().__init__()
        self.stage, self.mean_loss, self.w = stage, keras.metrics.Mean("loss"), {}
        for name, arrays in weights.items():
            trainable = name in trained_in(stage)
            self.w[name] = [self.add_weight(w.shape, keras.initializers.Constant(w), trainable=trainable) for w in arrays]
        self.built = True

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = _loss(*data, self.w, self.stage, straightforward=True)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        self.mean_loss.update_state(loss)
        return {"loss": self.mean_loss.result()}


def matrix_products(batch: int, stage: int, steps: int) -> Callable:
    """A loop, as one XLA program, of the matrix products of a step and nothing else."""

    def forward(rows, inputs):
        return [(rows, inputs, 500), (rows, 500, 10)]

    def backward(rows, inputs):
        """Of back-propagation: both weights' gradients, and the hidden layer's between them."""
        return [(inputs, rows, 500), (500, rows, 10), (rows, 10, 500)]

    # The thumbnails, the nine candidates, and the two chosen ones with a gradient.
    shapes = [*forward(batch, 144), *forward(9 * batch, 288), *forward(2 * batch, 288), *backward(2 * batch, 288)]
    shapes += backward(batch, 144) if stage == 1 else forward(batch, 288)  # The low-resolution network, or the first glimpse.
    random = tf.random.stateless_normal
    factors = [(random((m, k), [1, 2]), random((k, n), [3, 4])) for m, k, n in shapes]

    @tf.function(jit_compile=True)
    def loop():
        def step(i, total):
            # Nothing is left out as unused, or taken out of the loop as constant: each product needs the step before.
            same = 1 + 1e-30 * total
            return i + 1, tf.add_n([tf.reduce_max(a @ (same * b)) for a, b in factors])

        return tf.while_loop(lambda i, _: i < steps, step, (0, 0.0))[1]

    return lambda: float(loop())
