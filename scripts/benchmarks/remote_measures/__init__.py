"""What is measured of stores on a server: opening, batches, scans, training and excerpts."""
