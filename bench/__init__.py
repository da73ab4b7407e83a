"""Measurements side by side in one run, on one real server."""
