"""What is drawn of results."""
