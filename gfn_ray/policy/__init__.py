"""The LoRA policy: log q on packed trees, its updates, and its adapter in and out."""
