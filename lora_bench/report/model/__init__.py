"""What a report compares, before any of it is text."""
