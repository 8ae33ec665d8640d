"""Verdicts in a report: a table of every comparison, its words, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
