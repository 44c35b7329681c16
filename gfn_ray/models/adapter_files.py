"""The two files of a LoRA adapter, by the names that PEFT and vLLM look for."""

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
