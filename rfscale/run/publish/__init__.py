"""Results as one folder for others: numbers, page, figures, weights with their cards, and how all of it is cited.

README.md, LOG.md, LICENSE, CITATION.cff, croissant.json, environment.json, requirements.txt, SHA256SUMS
sweep.yaml        the definition, fields that were given beside the file included
tables/           parquet, CSV, dictionary.csv (`analysis.table.folder`), and ranking and laws
report/           the page and its figures
trials/<id>/      the files of the store but the weights: trial.json, journal.jsonl, result.json, samples.png
models/<id>/      weights and card (`rfscale.run.publish.models`)
"""

from rfscale.run.publish.publication import Published, publish, read_published

__all__ = ["Published", "publish", "read_published"]
