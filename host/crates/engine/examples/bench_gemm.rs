//! Times the matrix products of a training step, one shape at a time: GFLOP/s, the best of some runs.
//!
//! `bench_gemm [SECONDS]`; `RAYON_NUM_THREADS` sets the threads, `HOST_NO_AMX=1` leaves the matrix unit out.

use std::time::Instant;

use engine::kernels::cpu::CpuKernels;
use engine::kernels::{Format, Gemm, Memory as _, Queue as _, TensorOps as _, at, at_mut};
use engine::rng::normal_at;

#[expect(clippy::print_stdout, reason = "it is what a benchmark is for")]
fn main() {
    let seconds: f64 = std::env::args().nth(1).map_or(0.5, |text| text.parse().expect("seconds"));
    // Rows, outputs and inputs of a projection; each has a forward product and two backward ones.
    let shapes = [
        (1024, 1024, 512),
        (1024, 512, 512),
        (1024, 2816, 512),
        (1024, 512, 1408),
        (1024, 3072, 576),
        (256, 8192, 512),
        (256, 49152, 576),
        // The two of an adapter.
        (1024, 16, 1536),
        (1024, 1536, 16),
    ];
    for (tokens, out, input) in shapes {
        let mut line = format!("{tokens:5} x {out:5} x {input:4} ");
        for (name, m, n, k, transpose_a, transpose_b, beta) in [
            ("forward", tokens, out, input, false, true, 0.0),
            ("input gradient", tokens, input, out, false, false, 0.0),
            ("weight gradient", out, input, tokens, true, false, 1.0),
        ] {
            let (lda, ldb) = (if transpose_a { m } else { k }, if transpose_b { k } else { n });
            let g = Gemm { m, n, k, transpose_a, transpose_b, lda, ldb, ldc: n, alpha: 1.0, beta };
            line += &format!("  {name} {:5.0}", 2e-9 * (m * n * k) as f64 / best(g, seconds));
        }
        println!("{line}");
    }
}

/// Seconds of the fastest run.
fn best(g: Gemm, seconds: f64) -> f64 {
    let buffer = |stream: u64, len: usize| {
        let values: Vec<f32> = (0..len as u64).map(|index| normal_at(1, stream, index % 4096)).collect();
        let mut buffer = CpuKernels.alloc(Format::F32, len);
        CpuKernels.upload(&values, at_mut(&mut buffer, 0));
        buffer
    };
    let (a, b, mut c) = (buffer(1, g.m * g.k), buffer(2, g.k * g.n), buffer(3, g.m * g.n));
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < seconds {
        let run = Instant::now();
        CpuKernels.within(|| CpuKernels.gemm(g, at(&a, 0), at(&b, 0), at_mut(&mut c, 0)));
        best = best.min(run.elapsed().as_secs_f64());
    }
    best
}
