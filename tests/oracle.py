"""The paper in NumPy, written from its equations and from nothing of the package: slow, plain, one image at a time."""

import numpy as np


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pixel(image, y, x):
    """Bilinear value of one image at (y, x) in pixels; 0 outside."""
    height, width = image.shape[:2]
    if not (0 <= y <= height - 1 and 0 <= x <= width - 1):
        return np.zeros(image.shape[2])
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    return top * (1 - fy) + (image[y1, x0] * (1 - fx) + image[y1, x1] * fx) * fy


def crop(image, centre, size, scales):
    """`[size, size, channels * len(scales)]` around a centre in pixels (section 4.1)."""
    patches = []
    for s in scales:
        n = s * size
        start = centre - (n - 1) / 2
        window = np.array([[pixel(image, start[0] + i, start[1] + j) for j in range(n)] for i in range(n)])
        patches.append(window.reshape(size, s, size, s, -1).mean(axis=(1, 3)))
    return np.concatenate(patches, axis=-1)


def dense_net(x, layers):
    """Eqs. 1, 4, 7: ReLU layers and a linear one; `layers` is a list of (kernel, bias)."""
    x = x.reshape(-1)
    for kernel, bias in layers[:-1]:
        x = np.maximum(0, x @ kernel + bias)
    return x, x @ layers[-1][0] + layers[-1][1]


def weights_of(layer):
    """(kernel, bias) pairs of a LowResNet or GlimpseNet, as float64."""
    flat = [np.asarray(w, np.float64) for w in layer.get_weights()]
    return list(zip(flat[::2], flat[1::2]))


class Paper:
    """The forward pass, the search and the losses for the weights of a `GlimpseClassifier`."""

    def __init__(self, model, low_res_size, patch_size, scales):
        self.low = weights_of(model.low_res_net)
        self.glimpses = [weights_of(net) for net in model.glimpse_nets]
        self.heads = [[np.asarray(w, np.float64) for w in head.get_weights()] for head in model.location_heads]
        self.low_res_size, self.patch_size, self.scales = low_res_size, patch_size, scales

    def thumbnail(self, image):
        block = [side // self.low_res_size for side in image.shape[:2]]
        n = self.low_res_size
        return image.reshape(n, block[0], n, block[1], -1).mean(axis=(1, 3))

    def low_res(self, image):
        return dense_net(self.thumbnail(image), self.low)

    def location(self, n, hidden, evidence):
        """Eqs. 3 and 8."""
        kernel, bias, from_logits = self.heads[n]
        return sigmoid(hidden @ kernel + evidence @ from_logits + bias)

    def glimpse(self, n, image, location):
        centre = location * (np.array(image.shape[:2]) - 1)
        patch = crop(image, centre, self.patch_size, self.scales)
        return dense_net(patch, self.glimpses[n])[1]

    def look(self, image, glimpses, parallel=False):
        """Logits after 0 ... glimpses (eqs. 1, 5, 6), and the locations, one more than glimpses if heads allow."""
        hidden, low = self.low_res(image)
        outputs, logits, locations = [], [low], []
        for n in range(glimpses):
            evidence = low + (0 if parallel else sum(outputs))
            locations.append(self.location(n, hidden, evidence))
            outputs.append(self.glimpse(n, image, locations[-1]))
            logits.append(low + sum(outputs) / len(outputs))
        return logits, locations, outputs

    def candidates(self, location, search_size, stride, shape):
        """N(l) of eq. 12, as far as it lies in the image."""
        steps = [stride * (i - (search_size - 1) / 2) for i in range(search_size)]
        extent = np.array(shape[:2]) - 1
        places = [location + np.array([dy, dx]) / extent for dy in steps for dx in steps]
        return [place for place in places if (place >= 0).all() and (place <= 1).all()]

    def loss_at(self, n, image, label, z, outputs, location, previous, lam, gamma, variance):
        """E_n + lambda/2 |l - z|^2 + eq. 18: the terms of eqs. 9 and 17 that depend on z; distances by the longer side."""
        sides = (np.array(image.shape[:2]) - 1) / (max(image.shape[:2]) - 1)
        low = self.low_res(image)[1]
        logits = low + (sum(outputs) + self.glimpse(n, image, z)) / (n + 1)
        error = -np.log(softmax(logits)[label])
        bumps = sum(np.exp(-0.5 * np.sum(((z - place) * sides) ** 2) / variance) for place in previous)
        return error + lam / 2 * np.sum(((location - z) * sides) ** 2) + gamma * bumps

    def search(self, n, image, label, search_size, stride, lam, gamma, variance):
        """z* of eq. 12 and z- of eq. 15, by trying every place and every class."""
        _, previous, outputs = self.look(image, n)
        hidden, low = self.low_res(image)
        location = self.location(n, hidden, low + sum(outputs))
        places = self.candidates(location, search_size, stride, image.shape)

        def loss(z, y):
            return self.loss_at(n, image, y, z, outputs, location, previous, lam, gamma, variance)

        def whole(z, y):  # L of eq. 9 has E0 in it, which depends on y.
            return loss(z, y) - (np.log(softmax(low)[y]) if n == 0 else 0)

        classes = len(low)
        best = min(places, key=lambda z: whole(z, label))
        offending = min(places, key=lambda z: min(whole(z, y) for y in range(classes) if y != label))
        return location, best, offending, outputs, previous

    def loss(self, n, image, label, contrastive=True, **hyper):
        """The whole loss of eq. 16 (n = 0) or eqs. 17 and 18."""
        _, best, offending, _, _ = self.search(n, image, label, **hyper)
        return self.loss_with(n, image, label, best, offending if contrastive else None, **hyper)

    def loss_with(self, n, image, label, best, offending, lam, gamma, variance, **search):
        """The same for given places z* and z-, which are held fixed when the weights change."""
        _, previous, outputs = self.look(image, n)
        hidden, low = self.low_res(image)
        location = self.location(n, hidden, low + sum(outputs))
        total = self.loss_at(n, image, label, best, outputs, location, previous, lam, gamma, variance)
        if offending is not None:
            total += self.loss_at(n, image, label, offending, outputs, location, previous, 0.0, 0.0, 1.0)
        if n == 0:
            total += -np.log(softmax(self.low_res(image)[1])[label])
        return total

    def trained_weights(self, n):
        """The arrays that stage n + 1 trains, in the order of Keras's variables."""
        nets = [self.low] * (n == 0) + [self.heads[n : n + 1], self.glimpses[n]]
        return [array for net in nets for layer in net for array in layer]
