"""What is done to a finished run's model: compression, and what is measured before and after it."""
