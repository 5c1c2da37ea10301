"""What draws a report, and the report of a run: see page.py."""
