"""Quantizers, one a file; `netpress.quantize.run` says what a method defines."""
