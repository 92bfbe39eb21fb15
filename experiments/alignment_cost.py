"""What alignment costs the server: milliseconds of a call by the number of classes.

C nearly equal vectors of length 512 are spread over the sphere, by the ways of `--align`. The
simplex is exact and there for at most 513 of them. Writes `timings.csv` and `timings.png`; there
are no runs, and nothing of it is on the page.

Quick:

    Command: python -m experiments alignment_cost
    Time: 23 seconds on two idle cores
    Result: milliseconds, and the smallest angle between two vectors, in degrees:

        classes  simplex      thomson      reference    reference, 500 steps
             10  0.2   96.38  0.4   96.38  0.4   93.33  4.6    96.38
             30  0.6   91.98  1.2   91.98  1.4   86.72  18     91.69
            100  3.3   90.58  8.9   90.58  7.6   82.36  149    87.20
            300  23    90.19  45    90.18  34    80.08  767    83.01

Full:

    Command: python -m experiments alignment_cost --size full
    Time: not measured yet
    Result: not run. No published numbers were at hand; the published loop in torch takes 266 ms
    of one core for 100 classes and 2,317 ms for 200 (`experiments/bench`).
"""

from experiments import Timing

SIZES = {
    "quick": Timing(counts=[10, 30, 100, 300], repetitions=3),
    "full": Timing(counts=[10, 20, 50, 100, 200, 513, 1000], repetitions=5),
}
