"""Snapshots: the log in one signed file, made online, verified whole, restored or left alone (docs/snapshots.md)."""
