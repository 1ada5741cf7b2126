"""Judges with published weights: CLIP and Inception."""
