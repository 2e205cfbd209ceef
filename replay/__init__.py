"""Reads the service's log again: rebuilds its models, and asks what another policy would have earned."""
