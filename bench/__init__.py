"""Measures the node against the least a durable signed write can cost on the same machine in the same minutes."""
