"""What several factorizations share: chains of layers, ranks, budgets."""
