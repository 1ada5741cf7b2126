"""analysis: what the numbers of a sweep mean. Reads MLflow and `rfscale.names`, nothing else of rfscale."""
