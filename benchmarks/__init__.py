"""What dcmpool costs, and how it stands against others: `make bench` prints figures and asserts nothing.

    bench     the command line: what is measured, in which order; prints, or writes docs/performance.md
    race      one folder of files through dcmpool, the peers and the floor, in interleaved rounds
    series    the files           peers  who else, and by which command    loops, floor  programs that are run as peers
    stages    where a worker's time goes                  noop, scale  supervision alone, and how it grows
    storage   a disk whose fsync takes 5 ms               memory       the peak of a child, by many Frames
    measure   a command as one whole                      results, chart, machine  what comes out

Read all figures as ratios: they are of one run on one machine.
"""
