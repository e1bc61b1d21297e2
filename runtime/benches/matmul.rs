//! Speed of the matmul codelet on the shapes that tiles of GPT-2 see, one thread, operands in L2.
//!
//! `cargo bench -p superstep-runtime --bench matmul`; elements are floating-point operations.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use superstep_runtime::bench::{Isa, Old, Product, multiply};

fn matmul(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matmul");
    let shapes = [
        (64, 192, 96),
        (64, 192, 128),
        (128, 768, 16),
        (32, 768, 48),
        (11, 768, 65),
        (64, 64, 64),
        (128, 1024, 64),
        (8, 48, 24),
        (1, 768, 96),
    ];
    for (m, k, n) in shapes {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true)] {
            let product = Product {
                m,
                k,
                n,
                transpose_a,
                transpose_b,
                old: Old::Gone,
            };
            let (a, b) = (vec![0.5; m * k], vec![0.25; k * n]);
            let (mut out, mut work) = (vec![0.0; m * n], Vec::new());
            let name = match (transpose_a, transpose_b) {
                (true, _) => "at·b",
                (_, true) => "a·bt",
                _ => "a·b",
            };
            group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
            group.bench_function(BenchmarkId::new(name, format!("{m}x{k}x{n}")), |bencher| {
                bencher.iter(|| multiply(Isa::detect(), &product, &a, &b, &mut out, &mut work));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(500));
    targets = matmul
}
criterion_main!(benches);
