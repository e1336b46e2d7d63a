"""Offline audit of a data folder: what the log proves, and whether the views are what it folds to.

Knows events and projections and no decision code, so no decision code can change what the past means.
"""
