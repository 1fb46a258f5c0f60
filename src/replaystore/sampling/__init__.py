"""Which rows are drawn, in which order, and how they become batches."""
