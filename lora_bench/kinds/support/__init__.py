"""Shared parts of the kinds of task: their interface, and readers of what tables have in several ways."""
