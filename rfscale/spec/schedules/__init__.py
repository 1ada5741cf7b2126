"""Schedules other than the constant one, one file each."""
