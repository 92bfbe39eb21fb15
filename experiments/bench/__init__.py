"""Speed and memory: alignment, the search on the sphere, a step, a round, the start, many runs.

    make bench
    python -m experiments.bench --only alignment,sphere,client_step,round,start,scale --devices 1,2

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
    scale        what more runs in a program, more clients and more devices cost; the memory that a
                 plan expects against what its program needs, and by how much the process grew

Takes about a quarter of an hour, most of which compiles; `--quick` takes a minute. `make profile`
(`experiments/profile.py`) says where in a round the time goes.

Measured with jax 0.10.2 and torch 2.13 on two cores of an x86-64 server. Client step, batch 32,
ms of CPU time, nothing else running:

                      jax   torch NCHW   jax / torch   torch channels_last   jax / torch
    resnet8          33.0         43.7          0.76                  38.9          0.85
    mobilenet_v2     41.3        118.1          0.35                  60.1          0.69
    shufflenet_v2    17.3         55.9          0.31                  36.9          0.47
    efficientnet_b0  57.1        222.7          0.26                 111.0          0.51
    fedavg_cnn       19.7         22.9          0.86                  17.8          1.11

Alignment of C vectors of length 512, ms of CPU time, and by how much torch takes longer:

    C    torch loop    reference (same rule)    simplex (exact)
    100         240             4.3     56 x       2.17   111 x
    200        2163            13.6    159 x       9.10   238 x

A round of 20 `ht0` clients on 2 devices, nothing else running: 2.82 s and 258 MiB a device, 1.12
times the floor. Torch with 2 threads takes 10.4 s in NCHW with models on disk (3.7 x) and 4.6 s in
channels_last with models in memory (1.6 x). Compilation takes 91 s. The first accuracy of
`protonorm run` is there after 19.9 s, and after 6.1 s with compiled programs in the cache.

Of 1, 2, 4 and 8 runs in one program (`tiny`, 20 clients, 2 devices) a run costs 1.00, 0.91, 0.88
and 0.86. 20, 100 and 500 clients of `cnn` on one device: 0.65, 0.62 and 0.62 ms a client's step,
114, 100 and 99 KiB a client. 20 clients on two devices take 1.9 times as long as 10 on one core;
the two cores of this machine are not worth two. The memory expected before compiling is 0.93 to
1.06 of what the programs need, and 0.81 to 1.01 of the growth of the process; for `tiny` (5 to 15
MiB) it is 0.60 to 0.74 of that.
"""
