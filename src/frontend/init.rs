//! Weights from scratch, distributed as `transformers` initialises a GPT-2.
//!
//! Matrices and embeddings are normal with deviation `initializer_range`; the two projections back into the residual stream
//! are narrower by √(2·`n_layer`), so that the stream's variance does not grow with depth. Biases are 0, layer-norm scales 1.
//! A value depends on the seed, the parameter's name and its element only.

use rayon::prelude::*;
use superstep_ir::random::Stream;

use super::config::Gpt2Config;
use super::parameters::Parameter;
use super::weights::{Tensor, Weights};

/// Elements a task fills; a multiple of the generator's block.
const CHUNK: usize = 1 << 15;

/// Fresh weights for `config`.
pub fn init_weights(config: &Gpt2Config, seed: u64) -> Weights {
    config
        .parameters()
        .into_iter()
        .map(|parameter| {
            let data = initial_values(config, &parameter, seed);
            (
                parameter.name,
                Tensor {
                    shape: parameter.shape,
                    data,
                },
            )
        })
        .collect()
}

fn initial_values(config: &Gpt2Config, parameter: &Parameter, seed: u64) -> Vec<f32> {
    let count = parameter.element_count();
    if !parameter.decayed {
        let is_scale = parameter.name.ends_with(".weight");
        return vec![if is_scale { 1.0 } else { 0.0 }; count];
    }
    let deviation = if parameter.name.ends_with(".c_proj.weight") {
        config.initializer_range / (2.0 * config.n_layer as f64).sqrt()
    } else {
        config.initializer_range
    };
    let stream = Stream::named(seed, &parameter.name);
    let mut values = vec![0.0; count];
    values
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(i, chunk)| stream.fill_normal((i * CHUNK) as u64, deviation, chunk));
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::preset;

    fn deviation(weights: &Weights, name: &str) -> f64 {
        let data = &weights.get(name).unwrap().data;
        (data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / data.len() as f64).sqrt()
    }

    #[test]
    fn distributions() {
        let config = preset("gpt2-tiny")
            .unwrap()
            .with_overrides("vocab_size=1000")
            .unwrap();
        let weights = init_weights(&config, 42);
        weights.check(&config).unwrap();
        let near = |name: &str, expected: f64| {
            let found = deviation(&weights, name);
            assert!(
                (found / expected - 1.0).abs() < 0.03,
                "{name}: {found}, not {expected}"
            );
        };
        near("wte.weight", 0.02);
        near("wpe.weight", 0.02);
        near("h.3.attn.c_attn.weight", 0.02);
        near("h.0.mlp.c_fc.weight", 0.02);
        near("h.2.attn.c_proj.weight", 0.02 / 8f64.sqrt());
        near("h.2.mlp.c_proj.weight", 0.02 / 8f64.sqrt());
        assert!(
            weights
                .get("h.1.ln_2.weight")
                .unwrap()
                .data
                .iter()
                .all(|x| *x == 1.0)
        );
        for name in [
            "h.1.ln_2.bias",
            "h.0.attn.c_attn.bias",
            "h.0.mlp.c_proj.bias",
            "ln_f.bias",
        ] {
            assert!(
                weights.get(name).unwrap().data.iter().all(|x| *x == 0.0),
                "{name}"
            );
        }
    }

    #[test]
    fn the_seed_decides_and_threads_do_not() {
        let config = preset("gpt2-tiny")
            .unwrap()
            .with_overrides("vocab_size=999,n_layer=1")
            .unwrap();
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let weights = init_weights(&config, 1);
        assert_eq!(weights, alone.install(|| init_weights(&config, 1)));
        assert_ne!(weights, init_weights(&config, 2));
        // The same name in a deeper model starts from the same bits, scaled.
        let deeper = config.with_overrides("n_layer=2").unwrap();
        assert_eq!(
            weights.get("wte.weight"),
            init_weights(&deeper, 1).get("wte.weight")
        );
    }
}
