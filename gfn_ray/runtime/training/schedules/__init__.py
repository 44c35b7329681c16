"""What happens besides updates by the objective, and when; one file a schedule."""
