"""Growable arrays with commits, in any container: the commit log is the only truth about how long each of
them is."""
