"""Faults: kills, full disks, read-only folders, compilers that hang or eat all memory."""
