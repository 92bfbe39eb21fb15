"""Speed and memory: alignment, the search on the sphere, a client's step, a round, the start.

    make bench
    python -m experiments.bench --only alignment,sphere,client_step,round,start --devices 1,2

Prints tables and adds one line of JSON, with device, versions, commit and load, to
`bench/history.jsonl`. Where torch is installed (it is no dependency; the CPU build will do), the
alignment, the client step and the round are also measured beside plain torch, by turns: the first
two on one core each, the round with as many threads as we have devices. Compilation is never part
of another figure but that of the start, and only the start uses a compilation cache, its own.

    client_step  ms on one core, and on two devices that train at the same time; how near to the
                 least time that the architecture's operations and bytes take (`roofline`)
    round        20 clients of the paper's four architectures, 128 samples to train on and 64 to
                 test on each: seconds, compilation, memory against its floor
    start        seconds from `protonorm run` to the first accuracy, with and without a cache

Takes about ten minutes, most of which compiles; `--quick` takes half a minute. `make profile`
(`experiments/profile.py`) says where in a round the time goes.

Measured with jax 0.10.2 and torch 2.13 on two cores of an x86-64 server with little else to do
(load average 1 to 2). Client step, batch 32, ms of CPU time:

                      jax   torch NCHW   jax / torch   torch channels_last   jax / torch
    resnet8          24.9         33.9          0.73                  31.9          0.78
    mobilenet_v2     48.3        110.6          0.44                  72.7          0.66
    shufflenet_v2    16.3         53.9          0.30                  38.4          0.43
    efficientnet_b0  72.8        213.8          0.34                 130.0          0.56
    fedavg_cnn       21.6         19.0          1.13                  13.3          1.62

Alignment of C vectors of length 512, ms of CPU time, and by how much torch takes longer:

    C    torch loop    reference (same rule)    simplex (exact)
    100         240             4.3     56 x       2.17   111 x
    200        2163            13.6    159 x       9.10   238 x

A round of 20 `ht0` clients with 128 samples to train on, on 2 devices: 3.1 s, 289 MiB a device.
"""
