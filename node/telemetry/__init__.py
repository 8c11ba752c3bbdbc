"""What the daemon tells of itself to machines: metrics for Prometheus."""
