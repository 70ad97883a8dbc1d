"""The tests' own arithmetic: what the package computes, written down a second time with numpy alone."""

import math

import numpy as np

BINS = 15


def normalized(images, mean, std):
    """(N, H, W, C) uint8 -> (N, C, H, W) float32."""
    values = (images.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)).astype(np.float32)


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def quality(logits, labels, classes):
    """Accuracy, loss, calibration error over 15 bins, and accuracy by class."""
    shares = softmax(logits)
    hit = logits.argmax(1) == labels
    confidence = shares.max(1)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    error = 0.0
    for number in range(BINS):
        inside = bins == number
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    by_class = [float(hit[labels == k].mean()) if (labels == k).any() else None for k in range(classes)]
    loss = float(-np.log(shares[np.arange(len(labels)), labels]).mean())
    return {"accuracy": float(hit.mean()), "loss": loss, "ece": float(error), "by_class": by_class}


def rate(recipe, step, total):
    """The learning rate of a step, from the two papers' curves."""
    peak, rise = recipe["lr"], recipe["warmup"] * total
    if step >= rise:
        return peak * (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2
    if recipe["schedule"] == "cosine":
        return peak * (step + 1) / (rise + 1)
    return peak / 25 + (peak - peak / 25) * (1 - math.cos(math.pi * step / rise)) / 2
