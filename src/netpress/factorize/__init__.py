"""Low-rank factorization of a trained network."""
