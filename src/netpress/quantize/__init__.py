"""Quantization methods, one a file; `netpress.quantization` says what a method defines."""
