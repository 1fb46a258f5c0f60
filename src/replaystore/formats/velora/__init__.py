"""The safetensors and JSON files of velora."""
