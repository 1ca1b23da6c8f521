"""A campaign of faults against training runs: kills, damaged files, full disks, other numbers of processes.

A tiny run is trained once without faults. Then, in trials whose every choice follows from the seed, the
same command meets faults in child processes, and what it ends with is compared with the run that met
none. A loss is a wrong value of a parameter, or a checkpoint that was whole and is gone.

The moments of kills are drawn, but what a process is doing at that moment is the machine's affair: trials are
independent, not repeatable to the instruction.
"""
