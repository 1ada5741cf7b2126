"""Sweep file -> sweep -> axes -> trials -> identity. Imports neither torch nor Ray."""
