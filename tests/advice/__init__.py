"""Advice that error messages give as code is taken from the message, followed, and leads to the right values."""
