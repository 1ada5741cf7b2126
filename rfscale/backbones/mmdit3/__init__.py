"""MM-DiT with a set of weights for each text encoder (arXiv 2403.03206, section 5.2.3); the network is `mmdit`'s."""
