"""Faults put upon a cluster of real processes: on its links, its processes and its disks."""
