//! Loaded into a process by LD_PRELOAD: faults of its disk and its clock.
