"""What the benchmark `compat` measures: the memory of drop-in buffers."""
