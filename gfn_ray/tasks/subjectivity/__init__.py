"""Labels from rationales."""
