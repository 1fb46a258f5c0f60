"""What several formats of other software need: tensors in files, files that appear whole, rows on their way
out."""
