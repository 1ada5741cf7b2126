"""DiT whose text enters by cross-attention (arXiv 2403.03206, section 5.2.3; PixArt-alpha, arXiv 2310.00426)."""
