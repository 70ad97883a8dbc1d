"""How teachers take part in a training: objectives, and answers that are kept."""
