"""Stages of several devices (tensor parallelism): which groups, of what size, hold which layers."""
