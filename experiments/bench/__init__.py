"""Speed and memory: alignment, steps of clients and servers, rounds, the start, many runs.

    make bench
    python -m experiments.bench --only client_step,round,methods,server --devices 1,2

Prints tables and adds one line of JSON, with device, versions, commit and load, to
`bench/history.jsonl`. Where torch is installed (it is no dependency; the CPU build will do), the
alignment, the client step, the server's work and the round are also measured beside plain torch, by
turns: all but the last on one core each, the round with as many threads as we have devices.
Compilation is never part of another figure but that of the start, and only the start uses a
compilation cache, its own.

    client_step  on one core and on two devices; how near to the least time of its operations
    round        20 clients of the paper's four architectures: time, and memory against its floor
    methods      a round of each method, beside local training of the same clients
    participation  rounds of few participants, beside a lean program of the same steps
    server       what servers do beyond averaging: training, decompositions
    start        seconds from `protonorm run` to the first accuracy, with and without a cache
    scale        what more runs in a program, more clients and more devices cost; memory expected
    memory       what is expected before compiling, of all methods, for CPU and for an absent TPU
    compilation  programs for absent TPUs: seconds, code and temporaries against `compilation.json`

Most of the time goes into compiling; `--quick` takes a minute or two. `make profile`
(`experiments/bench/profile.py`) says where in a round the time goes.

Measured with jax 0.10.2 and torch 2.13 on two cores of an x86-64 server. Client step, batch 32,
ms of CPU time, nothing else running:

                      jax   torch NCHW   jax / torch   torch channels_last   jax / torch
    resnet8          25.2         38.2          0.66                  34.4          0.73
    mobilenet_v2     38.4        114.1          0.34                  75.2          0.51
    shufflenet_v2    13.0         61.9          0.21                  46.1          0.28
    efficientnet_b0  63.5        224.7          0.28                 142.1          0.45
    fedavg_cnn       17.8         21.3          0.84                  15.2          1.17

The same against channels_last with other programs running (load average 6 to 12), so that ratios
are rougher: googlenet 84.6 and 118.7, 0.71; resnet50 210 and 339, 0.62; tiny_vit 39 and 54, 0.74;
vit_b_32 475 and 501, 0.95; vit_b_16 937 and 1035, 0.91.

Alignment of C vectors of length 512, ms of CPU time, and by how much torch takes longer:

    C    torch loop    reference (same rule)    simplex (exact)
    100         266             4.8     55 x       2.41   110 x
    200        2317            15.3    152 x       10.9   213 x

A round of 20 `ht0` clients on 2 devices, nothing else running: 2.34 s and 244 MiB a device, 1.14
times the floor. Torch with 2 threads takes 12.0 s in NCHW with models on disk (5.1 x) and 5.8 s in
channels_last with models in memory (2.5 x). Compilation takes 80 s. The first accuracy of
`protonorm run` is there after 17.3 s, and after 6.2 s with compiled programs in the cache.

Of 1, 2, 4 and 8 runs in one program (`tiny`, 20 clients, 2 devices) a run costs 1.00, 0.84, 0.83
and 0.80. 20, 100 and 500 clients of `cnn` on one device: 0.76, 0.71 and 0.69 ms a client's step,
114, 100 and 99 KiB a client. 20 clients on two devices take 1.22 times as long as 10 on one core.
The memory expected before compiling is 1.01 to 1.13 of what the programs need, and 0.91 to 1.02 of
the growth of the process.
"""
