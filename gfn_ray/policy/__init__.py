"""The LoRA policy: log q on packed trees, and reading and writing its adapter."""
