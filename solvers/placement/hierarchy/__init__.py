"""Clusters of alike hosts in alike racks: structure found in the numbers, solved on kinds instead of devices."""
