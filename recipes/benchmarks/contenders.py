"""The step of the paper's protocol in TensorFlow alone, to compare `model.fit` with; in PyTorch: `contender_torch.py`.

All train the same networks on the same batches, from the same weights, by SGD with momentum. With `slices`, `fused` is one XLA
program for this one setting and nothing else; `matrix_products` is what that program cannot do without. With `crops`, `fit` is
the same step with no thought of speed: a crop for each candidate and scale, and a gradient through everything.
"""

import functools
import itertools
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


class Contender(keras.Model):
    """The networks of a model with the weights `weights_of` it, trained by the step of one stage."""

    def __init__(self, weights: dict, stage: int, look: Callable):
        super().__init__()
        self.stage, self.look, self.mean_loss, self.w = stage, look, keras.metrics.Mean("loss"), {}
        for name, arrays in weights.items():
            trainable = name in trained_in(stage)
            self.w[name] = [self.add_weight(w.shape, keras.initializers.Constant(w), trainable=trainable) for w in arrays]
        self.built = True
        self.compile(keras.optimizers.SGD(RATE, MOMENTUM), steps_per_execution=1)
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        """As `fit` has it: one step."""
        self.mean_loss.update_state(self.step(*data))
        return {"loss": self.mean_loss.result()}

    @tf.function(jit_compile=True)
    def fused(self, images, labels):
        """A loop of steps as one XLA program, on images `[steps, batch, 48, 48, 1]`; the last loss."""
        loss = 0.0
        for i in tf.range(len(images)):
            loss = self.step(images[i], labels[i])
        return loss

    def step(self, images, labels):
        with tf.GradientTape() as tape:
            loss = _loss(images, labels, self.w, self.stage, self.look)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        return loss


def _loss(images, labels, w, stage, look):
    """Eqs. 16 (stage 1) and 17 with 18 (stage 2), with the search of eqs. 12 and 15."""
    images = tf.cast(images[..., 0], tf.float32) / 255.0
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
    if look is crops:
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


def slices(images, place, count):
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


def crops(images, place, count):
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


def matrix_products(batch: int, stage: int, steps: int) -> Callable:
    """A loop, as one XLA program, of the matrix products of a step and nothing else."""

    def forward(rows, inputs):
        return [(rows, inputs, 500, 10)]

    def backward(rows, inputs):  # The gradients of the first layer's weights and of the second's.
        return [(500, 10, rows, inputs), (500, rows, 10)]

    # The thumbnails, the nine candidates, and the two chosen ones with a gradient.
    chains = [*forward(batch, 144), *forward(9 * batch, 288), *forward(2 * batch, 288), *backward(2 * batch, 288)]
    chains += backward(batch, 144) if stage == 1 else forward(batch, 288)  # The low-resolution network, or the first glimpse.
    factors = [[tf.random.stateless_normal(shape, [1, 2]) for shape in itertools.pairwise(chain)] for chain in chains]

    @tf.function(jit_compile=True)
    def loop():
        total = 0.0
        for _ in tf.range(steps):
            same = 1 + 1e-30 * total  # Each step needs the one before: none is taken out of the loop as constant.
            products = [functools.reduce(tf.matmul, [first, same * second, *rest]) for first, second, *rest in factors]
            total = tf.add_n([tf.reduce_max(product) for product in products])
        return total

    return lambda: float(loop())
