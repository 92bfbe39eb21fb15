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

Measured with jax 0.10.2 and torch 2.13 on two cores of an x86-64 server. Client step, batch 32,
ms of CPU time, while others used the machine (load average 2 to 4):

                      jax   torch NCHW   jax / torch   torch channels_last   jax / torch
    resnet8          35.6         56.4          0.63                  41.6          0.86
    mobilenet_v2     42.6        114.7          0.37                  61.8          0.69
    shufflenet_v2    18.3         67.0          0.27                  38.0          0.48
    efficientnet_b0  65.7        240.3          0.27                 110.7          0.59
    fedavg_cnn       20.5         23.7          0.86                  18.9          1.08

Alignment of C vectors of length 512, ms of CPU time, and by how much torch takes longer:

    C    torch loop    reference (same rule)    simplex (exact)
    100         240             4.3     56 x       2.17   111 x
    200        2163            13.6    159 x       9.10   238 x

A round of 20 `ht0` clients on 2 devices, nothing else running: 3.04 s and 290 MiB a device, 1.25
times the floor. Torch with 2 threads takes 11.5 s in NCHW with models on disk (3.8 x) and 5.1 s in
channels_last with models in memory (1.7 x). Compilation takes 106 s. The first accuracy of
`protonorm run` is there after 19.9 s, and after 6.1 s with compiled programs in the cache.
"""
