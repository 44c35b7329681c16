"""How a new version of the policy reaches a running vLLM engine: as a LoRA adapter, or merged."""
