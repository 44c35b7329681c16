"""Labels by way of rationales."""
