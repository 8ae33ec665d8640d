"""Packing: many runs of one base model and one method in one process, over one frozen base.

A step of a small run leaves most of a device idle: launching a layer's kernels takes longer than the layer. Runs that differ in
seed, order of data, rank, scaling, learning rate, schedule or weight decay, or are even of different tasks with as many labels,
go through the base together, and each ends with the weights that it would have had alone, up to rounding.
"""
