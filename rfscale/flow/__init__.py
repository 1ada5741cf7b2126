"""Formulations: noise paths, targets and noise samplers as functions of one number, and what generates with them."""
