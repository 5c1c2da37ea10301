"""`python -m trainer.prove`: show that every strategy trains like one process, or name what differs."""
