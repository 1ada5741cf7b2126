"""Does the attention stay in bounds? Its largest logit and its entropy along every training, diverged ones included."""
