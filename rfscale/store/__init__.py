"""The files of a trial: what lies in the store is the truth about it."""
