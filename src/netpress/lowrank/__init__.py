"""Low-rank methods, one a file; `netpress.factorization` says what a method defines."""
