"""Runs that were not trained here, in a store: those of a publication, and of anybody's table.

Each is a folder of a trial, with a journal, and a file that says where it is from (`origin`). Of a publication they
are trials like others: the sweep file finds them, and nothing trains them again. A table knows no sweep: its runs have
a name in the store (`<store>/imports/<name>.json`), and `report`, `compare` and `status` take that in place of a file.
"""

from rfscale.run.imports.importing import Imported, import_runs
from rfscale.run.imports.origin import notes_on, origin_of
from rfscale.run.imports.stored import named

__all__ = ["Imported", "import_runs", "named", "notes_on", "origin_of"]
