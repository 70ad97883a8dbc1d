"""What several quantizers share: how few bits stand in a file, what layers are given, integer arithmetic."""
