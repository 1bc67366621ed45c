"""What happens by itself, and what is told to others about it."""
