"""Checks of arguments and of data: clear errors before any work is lost."""
