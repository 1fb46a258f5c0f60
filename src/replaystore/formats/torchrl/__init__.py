"""The checkpoints of TorchRL's replay buffers, and the tensordicts that they are made of."""
