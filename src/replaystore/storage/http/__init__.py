"""Stores on a server that gives ranges of files over HTTP: read only, without a listing, never believed
unchecked."""
