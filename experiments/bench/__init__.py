"""Speed and memory: alignment, the search on the sphere, a client's step, one whole round.

    make bench
    python -m experiments.bench --only alignment,sphere,client_step,round --devices 1,2

Prints tables and adds one line of JSON, with device, versions, commit and load, to
`bench/history.jsonl`. Where torch is installed (it is no dependency; the CPU build will do), the
client step and the alignment are also measured beside plain torch, each on one core, by turns.
Compilation is never part of another figure, and nothing comes from the compilation cache.

Took 6 minutes of CPU time with torch, of which compilation was more than half, and 11 minutes on
the clock of a busy machine; `--quick` takes half a minute.

Measured with jax 0.10.2 and torch 2.13 on two cores of an x86-64 server while other programs kept
them busy (load average 6), so CPU time, not time on the clock. Client step, batch 32, ms:

                      jax   torch NCHW   jax / torch   torch channels_last   jax / torch
    resnet8          27.3         37.6          0.73                  33.4          0.82
    mobilenet_v2     56.4        120.9          0.47                  79.6          0.71
    shufflenet_v2    21.7         60.9          0.36                  44.1          0.49
    efficientnet_b0  80.5        233.3          0.34                 150.2          0.54
    fedavg_cnn       26.3         22.7          1.16                  15.9          1.65

Alignment of C vectors of length 512, ms, and by how much torch takes longer:

    C    torch loop    reference (same rule)    simplex (exact)
    100         237             4.9     48 x       2.45    97 x
    200        2359            15.5    152 x       10.7   221 x

A round of 20 `ht0` clients with 128 samples to train on, on 2 devices: 8.4 s of CPU time, 292 MiB
a device.
"""
