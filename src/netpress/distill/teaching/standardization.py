"""Logit standardization. Sun et al., https://arxiv.org/abs/2403.01427, with the constants of its authors' code."""

from dataclasses import replace

from netpress.base.errors import ParamsError
from netpress.core.taps import Seen

#: What the standard deviation of logits is raised by.
EPSILON = 1e-7


def standardized(seen: Seen) -> Seen:
    """Return the same with the z-scores of each image's logits over the classes: (z - mean) / (EPSILON + std).

    The deviation is the unbiased one, over classes - 1.

    Raises:
        ParamsError: of method_options; there are two classes, whose z-scores tell no more than which is larger.
    """
    if seen.logits.shape[1] < 3:
        text = "standardize: of two classes' z-scores only the order is left, which teaches nothing; set it to false"
        raise ParamsError([("method_options.standardize", f"method_options.{text}")])
    centered = seen.logits - seen.logits.mean(1, keepdim=True)
    return replace(seen, logits=centered / (EPSILON + seen.logits.std(1, keepdim=True)))
