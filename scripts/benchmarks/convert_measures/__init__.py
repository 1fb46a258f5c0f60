"""What conversions cost: reading other software's files, digests, memory."""
