"""Factorizations, one a file; `netpress.factorize.run` says what a method defines."""
