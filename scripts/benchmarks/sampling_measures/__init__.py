"""What the benchmark `sampling` measures: batches as an agent takes them while it trains, made by this
library and by others."""
