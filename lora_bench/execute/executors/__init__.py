"""Executors of units of work: this process, worker processes on this machine, or a Ray cluster.

A unit is a list of jobs; an executor takes units and returns records, in any order.
"""
