"""MM-DiT, the backbone of Stable Diffusion 3 (arXiv 2403.03206, section 4)."""
