use super::*;
use crate::codelets::testing::{
    assert_close, bits, isas, numbers as random, run, run_adding, whole,
};

fn reference(p: &Product, a: &[f32], b: &[f32], start: &[f32]) -> Vec<f64> {
    let mut out = Vec::new();
    for i in 0..p.m {
        for j in 0..p.n {
            let at = |q: usize| {
                if p.transpose_a {
                    a[q * p.m + i]
                } else {
                    a[i * p.k + q]
                }
            };
            let first = match p.old {
                Old::Gone => 0.0,
                Old::Start | Old::Term => f64::from(start[i * p.n + j]),
            };
            out.push((0..p.k).fold(first, |sum, q| {
                sum + f64::from(at(q))
                    * f64::from(if p.transpose_b {
                        b[j * p.k + q]
                    } else {
                        b[q * p.n + j]
                    })
            }));
        }
    }
    out
}

fn check(batch: usize, p: Product) {
    let Product { m, k, n, .. } = p;
    let (a, b, c) = (
        random(batch * m * k, 1),
        random(batch * k * n, 2),
        random(batch * m * n, 3),
    );
    let a_dims = if p.transpose_a {
        [batch, k, m]
    } else {
        [batch, m, k]
    };
    let b_dims = if p.transpose_b {
        [batch, n, k]
    } else {
        [batch, k, n]
    };
    let inputs = [whole(&a_dims, &a), whole(&b_dims, &b)];
    let out = [whole(&[batch, m, n], &c)];
    let results: Vec<_> = isas()
        .into_iter()
        .map(|isa| {
            let Product {
                transpose_a,
                transpose_b,
                old,
                ..
            } = p;
            let kernel = Matmul {
                transpose_a,
                transpose_b,
                accumulate: old == Old::Start,
                isa,
            };
            match old {
                Old::Term => run_adding(&kernel, &inputs, &out),
                _ => run(&kernel, &inputs, &out),
            }
        })
        .collect();
    for i in 0..batch {
        let expected = reference(&p, &a[i * m * k..], &b[i * k * n..], &c[i * m * n..]);
        assert_close(
            &results[0][0][i * m * n..][..m * n],
            &expected,
            1e-5,
            &format!("{p:?}"),
        );
    }
    assert!(
        results.iter().all(|r| bits(r) == bits(&results[0])),
        "{p:?}: instruction sets disagree"
    );
}

#[test]
fn odd_shapes_in_every_storage() {
    let shapes = [
        (1, 1, 1),
        (1, 7, 24),
        (2, 3, 16),
        (3, 24, 7),
        (4, 5, 8),
        (5, 48, 33),
        (6, 16, 16),
        (7, 9, 15),
        (8, 1, 17),
        (13, 64, 40),
        (24, 300, 31),
        (1, 513, 50),
        (64, 192, 96),
    ];
    for (m, k, n) in shapes {
        for transpose_a in [false, true] {
            for transpose_b in [false, true] {
                for old in [Old::Gone, Old::Start, Old::Term] {
                    check(
                        1,
                        Product {
                            m,
                            k,
                            n,
                            transpose_a,
                            transpose_b,
                            old,
                        },
                    );
                }
            }
        }
    }
    check(
        3,
        Product {
            m: 5,
            k: 7,
            n: 9,
            transpose_a: false,
            transpose_b: true,
            old: Old::Start,
        },
    );
}

#[test]
fn empty_extents() {
    for (m, k, n) in [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)] {
        for old in [Old::Gone, Old::Start, Old::Term] {
            check(
                1,
                Product {
                    m,
                    k,
                    n,
                    transpose_a: false,
                    transpose_b: old == Old::Start,
                    old,
                },
            );
        }
    }
}

#[test]
fn grouping_rows_and_columns_changes_no_bit() {
    let (m, k, n) = (29, 300, 45);
    let (a, b) = (random(m * k, 1), random(k * n, 2));
    let kernel = Matmul {
        transpose_a: false,
        transpose_b: false,
        accumulate: false,
        isa: Isa::detect(),
    };
    let all = run(
        &kernel,
        &[whole(&[m, k], &a), whole(&[k, n], &b)],
        &[whole(&[m, n], &vec![0.0; m * n])],
    );
    for i in 0..m {
        let row = run(
            &kernel,
            &[whole(&[1, k], &a[i * k..][..k]), whole(&[k, n], &b)],
            &[whole(&[1, n], &vec![0.0; n])],
        );
        assert_eq!(row[0], all[0][i * n..][..n]);
    }
}

#[test]
fn a_sum_of_products_made_in_place_is_the_sum_of_the_products() {
    for (m, k, n) in [
        (1, 1, 1),
        (29, 256, 45),
        (29, 257, 45),
        (13, 600, 8),
        (3, 0, 5),
    ] {
        let (a, b, c) = (random(m * k, 1), random(k * n, 2), random(m * n, 3));
        let inputs = [whole(&[m, k], &a), whole(&[k, n], &b)];
        let out = [whole(&[m, n], &c)];
        for isa in isas() {
            let kernel = Matmul {
                transpose_a: false,
                transpose_b: false,
                accumulate: false,
                isa,
            };
            let product = run(&kernel, &inputs, &out);
            let expected = c.iter().zip(&product[0]).map(|(c, p)| (c + p).to_bits());
            let found = run_adding(&kernel, &inputs, &out);
            let found = found[0].iter().map(|x| x.to_bits());
            assert!(expected.eq(found), "{m} × {k} × {n}");
        }
    }
}

/// `rows × columns` of random numbers with zeros, of both signs, where `is_zero` says so.
fn with_zeros(rows: usize, columns: usize, is_zero: impl Fn(usize, usize) -> bool) -> Vec<f32> {
    let mut x = random(rows * columns, 5);
    for (at, x) in x.iter_mut().enumerate() {
        if is_zero(at / columns, at % columns) {
            *x = if at.is_multiple_of(3) { -0.0 } else { 0.0 };
        }
    }
    x
}

#[test]
fn zeros_that_are_skipped_change_no_bit() {
    let (m, k, n) = (45, 300, 40);
    let (b, c) = (random(k * n, 2), random(m * n, 3));
    let below = |i: usize, p: usize| p > 6 * i;
    let above = |i: usize, p: usize| p < 6 * i;
    let mut infinite = b.clone();
    (infinite[290 * n + 3], infinite[5 * n + 39]) = (f32::INFINITY, f32::NAN);
    // Sums that are −0 until a zero of the left operand makes them 0.
    let mut vanishing = b.clone();
    vanishing[..16 * n].fill(-1e-30);
    let tiny = with_zeros(m, k, |_, p| p > 15)
        .iter()
        .map(|x| if *x == 0.0 { *x } else { 1e-30 })
        .collect::<Vec<_>>();
    let cases = [
        (with_zeros(m, k, below), &b),
        (with_zeros(m, k, above), &b),
        (with_zeros(m, k, |_, _| true), &b),
        (with_zeros(m, k, below), &infinite),
        (with_zeros(m, k, above), &infinite),
        (tiny, &vanishing),
    ];
    for (case, (a, b)) in cases.iter().enumerate() {
        let turned: Vec<f32> = (0..k * m).map(|at| a[at % m * k + at / m]).collect();
        for (transpose_a, old) in [false, true]
            .into_iter()
            .flat_map(|t| [Old::Gone, Old::Start].map(|old| (t, old)))
        {
            let mut expected = c.clone();
            for (at, sum) in expected.iter_mut().enumerate() {
                if old == Old::Gone {
                    *sum = 0.0;
                }
                for p in 0..k {
                    *sum = a[at / n * k + p].mul_add(b[p * n + at % n], *sum);
                }
            }
            let (a, a_dims) = match transpose_a {
                true => (&turned, [k, m]),
                false => (a, [m, k]),
            };
            for isa in isas() {
                let kernel = Matmul {
                    transpose_a,
                    transpose_b: false,
                    accumulate: old == Old::Start,
                    isa,
                };
                let inputs = [whole(&a_dims, a), whole(&[k, n], b)];
                let found = run(&kernel, &inputs, &[whole(&[m, n], &c)]);
                let same =
                    |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
                assert!(
                    found[0].iter().zip(&expected).all(same),
                    "case {case}, transposed {transpose_a}, {old:?}, {isa:?}"
                );
            }
        }
    }
}
