"""Fault injection: storage that fails or never answers, processes that die at random."""

FSNAME = "dcmpool-faults"
"""What the kernel calls our FUSE disks in /proc/mounts."""
CARELESS = "careless"
"""The kind of disk that does not tell upper from lower case."""
