"""The step of the paper's protocol in PyTorch; see `contenders.py`."""

import torch
from contenders import DIVERSITY, MOMENTUM, OFFSETS, RATE, VARIANCE, WEIGHT, trained_in
from torch.nn import functional


class TorchGlimpses:
    """Training in PyTorch, eagerly or with the loss compiled by `torch.compile`."""

    def __init__(self, weights: dict, stage: int, compiled: bool):
        self.stage = stage
        self.w = {name: [torch.tensor(w) for w in arrays] for name, arrays in weights.items()}
        trained = [w.requires_grad_() for name in trained_in(stage) for w in self.w[name]]
        self.optimizer = torch.optim.SGD(trained, RATE, MOMENTUM)
        self.offsets = torch.tensor(OFFSETS)
        self.loss = torch.compile(self._loss) if compiled else self._loss

    def train(self, images, labels):
        """One step on each of images `[steps, batch, 48, 48, 1]`; the loss of the last."""
        for batch, answers in zip(images, labels):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(batch, answers)
            loss.backward()
            self.optimizer.step()
        return float(loss.detach())

    def _loss(self, images, labels):
        images = images[..., 0].float() / 255.0
        thumbnails = functional.avg_pool2d(images[:, None], 4).flatten(1)
        w = self.w["low_res"]
        hidden = functional.relu(thumbnails @ w[0] + w[1])
        low_res = hidden @ w[2] + w[3]
        place = self._place("head1", hidden, low_res)
        before, share, net, earlier = low_res, 1.0, "net1", None
        if self.stage == 2:
            with torch.no_grad():
                first = self._net("net1", self._patches(self._crop(images, place, 24), 1))[:, 0]
            earlier, place = place, self._place("head2", hidden, low_res + first)
            before, share, net = low_res + first / 2, 0.5, "net2"
        with torch.no_grad():
            chosen, target = self._search(images, labels, low_res, before, share, net, place, earlier)

        logits = before[:, None] + share * self._net(net, chosen)
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(2), reduction="sum")
        loss = loss + self._penalty(place, target[:, None], earlier).sum()
        if self.stage == 1:
            loss = loss + functional.cross_entropy(low_res, labels, reduction="sum")
        return loss / len(images)

    def _search(self, images, labels, low_res, before, share, net, place, earlier):
        patches = self._patches(self._crop(images, place, 28), 3)
        candidates = place[:, None] + self.offsets
        loss = self._penalty(place, candidates, earlier)[..., None]
        loss = loss - functional.log_softmax(before[:, None] + share * self._net(net, patches), dim=-1)
        if self.stage == 1:
            loss = loss - functional.log_softmax(low_res, dim=-1)[:, None]
        correct = functional.one_hot(labels, 10).bool()[:, None]
        best = loss.masked_fill(~correct, torch.inf).amin(-1).argmin(-1)
        offending = loss.masked_fill(correct, torch.inf).amin(-1).argmin(-1)
        rows = torch.arange(len(images))
        return patches[rows[:, None], torch.stack([best, offending], dim=1)], candidates[rows, best]

    def _penalty(self, place, candidates, earlier):
        penalty = WEIGHT / 2 * ((place[:, None] - candidates) ** 2).sum(-1)
        if earlier is None:
            return penalty
        distance = ((candidates - earlier[:, None]) ** 2).sum(-1)
        return penalty + DIVERSITY * torch.exp(-0.5 * distance / VARIANCE)

    def _place(self, head, hidden, logits):
        features, bias, classes = self.w[head]
        return torch.sigmoid(hidden @ features + bias + logits @ classes)

    def _net(self, name, patches):
        w = self.w[name]
        return functional.relu(patches @ w[0] + w[1]) @ w[2] + w[3]

    def _crop(self, images, place, size):
        step = (torch.arange(size) - (size - 1) / 2) * 2 / 47
        y, x = (place.detach()[:, n, None] * 2 - 1 + step for n in (0, 1))
        grid = torch.stack([x[:, None].expand(-1, size, size), y[:, :, None].expand(-1, size, size)], dim=-1)
        return functional.grid_sample(images[:, None], grid, align_corners=True)[:, 0]

    def _patches(self, window, count):
        """Both scales at `count` x `count` places, `[batch, count^2, 288]`."""
        coarse = functional.avg_pool2d(window[:, None], 2)[:, 0]
        fine = window[:, 6:-6, 6:-6].unfold(1, 12, 2).unfold(2, 12, 2)
        both = torch.stack([fine, coarse.unfold(1, 12, 1).unfold(2, 12, 1)], dim=-1)
        return both.reshape(len(window), count**2, 288)
