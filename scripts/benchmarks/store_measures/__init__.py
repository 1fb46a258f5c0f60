"""What the benchmark `store` measures: writing, reading, converting and opening."""
