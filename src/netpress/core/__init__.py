"""What every stage that makes a model computes with."""
