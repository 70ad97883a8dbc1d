"""What every pruning curve computes with."""
