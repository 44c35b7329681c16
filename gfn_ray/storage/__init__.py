"""Files that appear whole or not at all, and the bytes of records. Knows no record by name."""
