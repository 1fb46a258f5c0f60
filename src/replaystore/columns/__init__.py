"""From byte ranges to rows: raw ones mapped or read in place, coded ones decoded a chunk at a time."""
