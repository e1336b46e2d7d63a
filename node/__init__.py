"""A Stigmem node: an event log, the projections folded from it, and the HTTP surface over both."""

VERSION = "1.1.0"
