"""A contextual bandit that ranks feeds: rank, log, join, learn, serve."""

__version__ = "0.1.0"
