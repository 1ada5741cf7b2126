"""DiT with the text in the sequence: one set of weights for image and text (arXiv 2403.03206, section 5.2.3)."""
