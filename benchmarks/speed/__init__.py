"""The parts of `benchmarks/bench.py`: what is measured, in processes of their own, and the tables."""
