"""What the benchmark `live` measures: a buffer in the hands of a trainer, at every step. One module for each
area, with `MEASURES`; `peers.py` has what they are compared with."""
