"""GenEval: its rule, and the judge that applies it with a published detector."""
