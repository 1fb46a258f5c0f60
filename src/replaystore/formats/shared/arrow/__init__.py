"""Tables of Arrow and Parquet, read and written."""
