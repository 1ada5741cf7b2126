"""MLflow, a mirror of the store: all that writes it. `analysis.table` reads it."""
