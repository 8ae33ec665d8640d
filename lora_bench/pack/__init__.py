"""Packing: many runs of one base model and one method in one process, over one frozen base.

A step of a small run leaves most of a device idle: launching a layer's kernels takes longer than the layer. Packed runs share
the forward pass through the base. They may differ in seed, order of data, rank, scaling, learning rate, schedule or weight
decay, or even in the task if it has as many labels. Each ends with the weights that it would have alone, up to rounding.
"""
