"""Networks trained on the labels alone."""
