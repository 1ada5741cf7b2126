"""Evaluations of a trained network: each yields (name, value)."""
