"""MLflow -> one tidy row per trial, and the list of what was left out with reasons. The only reader."""
