"""What outputs are judged by: loss of function, quality against labels, latency."""
