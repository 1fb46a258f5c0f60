"""Files of safetensors that hold steps as plain tensors, one for each field."""
