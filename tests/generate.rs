//! Generation with a cache: tokens of transformers' greedy generation, logits of a whole window, and sequences that know nothing of those
//! beside them.

mod support;

use std::sync::Arc;

use superstep::compile::{PlanCache, compile_generation};
use superstep::frontend::model::{CacheShape, GraphOptions, gpt2_graph};
use superstep::frontend::{Gpt2Config, Weights, init_weights, preset};
use superstep::generate::{Generation, Prompt, Sampling, generate, positions_needed};
use superstep::precision::Precision;
use superstep::session::Session;
use superstep_ir::graph::Module;
use superstep_ir::machine::Machine;
use superstep_ir::random::Stream;
use superstep_runtime::{EngineOptions, Host, HostError, Schedule};
use support::{Golden, fixture, json, machine, relative_l2};

/// As the script that made the fixtures changes weights, so that every token depends on all before it.
fn sharpened(weights: &Weights) -> Weights {
    let scaled = weights.iter().map(|(name, tensor)| {
        let factor = match name {
            "wpe.weight" => 16.0,
            _ if name.ends_with("c_attn.weight") => 8.0,
            _ => 1.0,
        };
        let mut tensor = tensor.clone();
        tensor.data.iter_mut().for_each(|x| *x *= factor);
        (name.to_owned(), tensor)
    });
    scaled.collect()
}

fn session(
    config: &Gpt2Config,
    weights: &Weights,
    shape: CacheShape,
    precision: Precision,
    options: &EngineOptions,
    tiles: u32,
) -> Session {
    let machine = machine(1, tiles);
    let program = compile_generation(config, &machine, precision, shape, &PlanCache::none());
    Session::load(Arc::new(program.expect("compiles")), weights, options).expect("loads")
}

fn greedy(shape: CacheShape, max_new_tokens: usize, stop: Option<u32>) -> Generation {
    Generation {
        max_new_tokens,
        sampling: Sampling::Greedy,
        seed: 1,
        stop,
        shape,
    }
}

fn as_prompts(ids: &[Vec<u32>]) -> Vec<Prompt<'_>> {
    ids.iter().map(|ids| Prompt { ids, number: 0 }).collect()
}

/// Prompts of `generate.json` as a batch of `batch`, against what transformers added to them.
fn check_golden(name: &str, batch: usize, tiles: u32) {
    let golden = Golden::load(name);
    let expected = json(&fixture(name).join("generate.json"));
    let ids = |key: &str| -> Vec<Vec<u32>> {
        serde_json::from_value(expected[key].clone()).expect("lists of ids")
    };
    let (prompts, wanted) = (ids("prompts"), ids("greedy"));
    let new = expected["max_new_tokens"].as_u64().expect("a number") as usize;
    let prompt = prompts.iter().map(Vec::len).max().unwrap();
    let shape = CacheShape {
        batch,
        prompt,
        positions: positions_needed(prompt, new),
    };
    let weights = sharpened(&golden.weights);
    let mut session = session(
        &golden.config,
        &weights,
        shape,
        Precision::F32,
        &EngineOptions::default(),
        tiles,
    );
    let generation = greedy(shape, new, golden.config.eos_token_id);
    let mut watched = vec![Vec::new(); prompts.len()];
    let prompts = as_prompts(&prompts);
    let generated = generate(&mut session, &prompts, &generation, &mut |i, id| {
        watched[i].push(id);
    })
    .expect("generates");
    assert_eq!(generated.tokens, wanted);
    assert_eq!(generated.tokens, watched);
    let distinct: std::collections::BTreeSet<u32> = wanted.into_iter().flatten().collect();
    assert!(distinct.len() > new, "the fixture repeats itself");
}

#[test]
fn tiny_generates_what_transformers_does() {
    check_golden("tiny", 5, 64);
    // Three at once, then two and an empty place.
    check_golden("tiny", 3, 1472);
    check_golden("tiny", 1, 64);
}

#[test]
fn small_generates_what_transformers_does() {
    check_golden("small4", 5, 1472);
}

/// Feeds and keeps what it is asked for.
struct Recorder {
    tokens: Vec<i32>,
    last: Vec<i32>,
    logits: Vec<f32>,
}

impl Host for Recorder {
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError> {
        let ids = match stream {
            "tokens" => &self.tokens,
            _ => &self.last,
        };
        into.copy_from_slice(bytemuck::cast_slice(ids));
        Ok(())
    }

    fn take(&mut self, _: &str, from: &[u8]) -> Result<(), HostError> {
        let words = from.chunks_exact(4);
        self.logits = words
            .map(|w| f32::from_le_bytes(w.try_into().unwrap()))
            .collect();
        Ok(())
    }
}

/// Random texts of some lengths, and the lengths of their prompts.
struct Case {
    config: Gpt2Config,
    shape: CacheShape,
    tiles: u32,
    texts: Vec<Vec<i32>>,
    prompts: Vec<usize>,
}

impl Case {
    fn random(number: u64) -> Case {
        let draw = Stream::named(7, &format!("case {number}"));
        let below = |i: u64, n: usize| (draw.uniform_f64(i) * n as f64) as usize;
        let heads = 1 + below(0, 4);
        let width = heads * [3, 8, 16][below(1, 3)];
        let (batch, prompt) = (1 + below(2, 4), 1 + below(3, 9));
        let positions = prompt + 1 + below(4, 12);
        let vocabulary = 20 + below(5, 60);
        let shape = format!(
            "n_layer={},n_head={heads},n_embd={width},n_positions=24,vocab_size={vocabulary}",
            1 + below(6, 3),
        );
        let config = preset("gpt2").unwrap().with_overrides(&shape).unwrap();
        let texts = (0..batch).map(|b| {
            let id = |i: usize| below((100 * (b + 1) + i) as u64, vocabulary) as i32;
            (0..positions).map(id).collect()
        });
        Case {
            texts: texts.collect(),
            prompts: (0..batch)
                .map(|b| 1 + below(50 + b as u64, prompt))
                .collect(),
            config,
            shape: CacheShape {
                batch,
                prompt,
                positions,
            },
            tiles: [8, 64, 1472][below(7, 3)],
        }
    }

    fn weights(&self) -> Weights {
        sharpened(&init_weights(&self.config, 3))
    }

    /// Logits of every text from its prompt's last position on, fed through the cache.
    fn cached(&self, precision: Precision, options: &EngineOptions) -> Vec<Vec<f32>> {
        let (shape, vocabulary) = (self.shape, self.config.vocab_size);
        let weights = self.weights();
        let mut session = session(
            &self.config,
            &weights,
            shape,
            precision,
            options,
            self.tiles,
        );
        let mut logits = vec![Vec::new(); shape.batch];
        // Padding that would be seen if it were not hidden.
        let padded = self.texts.iter().zip(&self.prompts);
        let padded = padded.flat_map(|(text, &n)| {
            (0..shape.prompt).map(move |i| if i < n { text[i] } else { (i % 20) as i32 })
        });
        let ends = self.prompts.iter().enumerate();
        let mut host = Recorder {
            tokens: padded.collect(),
            last: ends
                .map(|(b, &n)| (b * shape.prompt + n - 1) as i32)
                .collect(),
            logits: Vec::new(),
        };
        session.run_part("prefill", &mut host).expect("prefill");
        let mut at = self.prompts.clone();
        loop {
            for (logits, row) in logits.iter_mut().zip(host.logits.chunks(vocabulary)) {
                logits.extend_from_slice(row);
            }
            if at.contains(&shape.positions) {
                return logits;
            }
            host.tokens = self.texts.iter().zip(&at).map(|(t, &at)| t[at]).collect();
            host.last = at.iter().map(|&at| at as i32).collect();
            session.run_part("decode", &mut host).expect("decode");
            at.iter_mut().for_each(|at| *at += 1);
        }
    }

    /// The same logits from one pass over whole texts.
    fn whole(&self, precision: Precision) -> Vec<Vec<f32>> {
        let (shape, vocabulary) = (self.shape, self.config.vocab_size);
        let options = GraphOptions {
            batch: shape.batch,
            seq: shape.positions,
            labels: false,
            logits: true,
            dropout: false,
            loss_chunks: 1,
            vocabulary: superstep::frontend::VocabularySlices::whole(vocabulary),
        };
        let mut graph = gpt2_graph(&self.config, options).unwrap();
        precision.apply(&mut graph, false).unwrap();
        let module = Module {
            graphs: vec![graph],
        };
        let compiled = superstep_passes::compile(
            module,
            &machine(1, self.tiles),
            &superstep_passes::CompileOptions {
                half_partials: precision.has_half_partials(),
                ..Default::default()
            },
            vec![],
        );
        let program = Arc::new(compiled.unwrap().program);
        let options = EngineOptions::default();
        let mut session = Session::load(program, &self.weights(), &options).unwrap();
        let mut host = Recorder {
            tokens: self.texts.concat(),
            last: vec![],
            logits: vec![],
        };
        session.run(&mut host).unwrap();
        let all = host.logits.chunks(shape.positions * vocabulary);
        let of_prompt = |(rows, &n): (&[f32], &usize)| rows[(n - 1) * vocabulary..].to_vec();
        all.zip(&self.prompts).map(of_prompt).collect()
    }
}

#[test]
fn cached_logits_are_those_of_the_whole_text() {
    for number in 0..10 {
        let case = Case::random(number);
        for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::F16Partials16, 3e-2)] {
            let cached = case.cached(precision, &EngineOptions::default());
            for (cached, whole) in cached.iter().zip(case.whole(precision)) {
                let off = relative_l2(cached, &whole[..cached.len()]);
                let shape = case.shape;
                assert!(
                    off <= tolerance,
                    "case {number} {shape:?} in {precision}: off by {off:e}"
                );
            }
        }
    }
}

#[test]
fn cached_logits_are_the_same_bits_however_the_host_runs_them() {
    for precision in [Precision::F32, Precision::F16Partials16] {
        let case = Case::random(3);
        let one = EngineOptions {
            threads: 1,
            ..EngineOptions::default()
        };
        let logits = case.cached(precision, &one);
        for (threads, schedule) in [
            (2, Schedule::Fast),
            (3, Schedule::Fast),
            (2, Schedule::Strict),
            (1, Schedule::Poisoned),
        ] {
            let options = EngineOptions {
                threads,
                schedule,
                ..one
            };
            assert_eq!(logits, case.cached(precision, &options), "{options:?}");
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_those_beside_it() {
    let golden = Golden::load("tiny");
    let weights = sharpened(&golden.weights);
    let ids: Vec<Vec<u32>> = vec![vec![3, 1, 4, 1, 5, 9, 2, 6], vec![5], vec![35, 89, 7]];
    let shape = CacheShape {
        batch: 5,
        prompt: 8,
        positions: 20,
    };
    for precision in [Precision::F32, Precision::F16Partials16] {
        let options = EngineOptions::default();
        let mut session = session(&golden.config, &weights, shape, precision, &options, 64);
        let generation = Generation {
            sampling: Sampling::Draw {
                temperature: 1.5,
                top_k: Some(50),
                top_p: Some(0.95),
            },
            ..greedy(shape, 12, None)
        };
        let mut run = |prompts: &[Prompt<'_>]| {
            let generated = generate(&mut session, prompts, &generation, &mut |_, _| {});
            generated.expect("generates").tokens
        };
        // Every prompt twice, then every sequence alone.
        let many: Vec<Prompt<'_>> = ids
            .iter()
            .flat_map(|ids| (0..2).map(move |number| Prompt { ids, number }))
            .collect();
        let together = run(&many);
        for (prompt, tokens) in many.iter().zip(&together) {
            assert_eq!(run(&[*prompt])[0], *tokens, "{prompt:?}");
            assert_eq!(tokens.len(), 12);
        }
        assert!(together.chunks(2).all(|pair| pair[0] != pair[1]));
    }
}

#[test]
fn layers_on_several_ipus_keep_their_own_cache() {
    let config = preset("gpt2").unwrap().with_overrides(
        "n_layer=4,n_head=4,n_embd=64,n_positions=64,vocab_size=300,bos_token_id=1,eos_token_id=1",
    );
    let config = config.unwrap();
    let weights = sharpened(&init_weights(&config, 3));
    let shape = CacheShape {
        batch: 2,
        prompt: 5,
        positions: 40,
    };
    let roomy = machine(4, 32);
    let tight = Machine {
        tile_memory: 30 << 10,
        reserved_bytes: 4 << 10,
        ..roomy.clone()
    };
    let ids = vec![vec![3, 1, 4, 1, 5], vec![35, 89]];
    let tokens = [roomy, tight].map(|machine| {
        let plans = PlanCache::none();
        let program = compile_generation(&config, &machine, Precision::F32, shape, &plans);
        let program = Arc::new(program.expect("compiles"));
        let ipus = program.ipus;
        let mut session = Session::load(program, &weights, &EngineOptions::default()).unwrap();
        let generation = greedy(shape, 30, None);
        let generated = generate(&mut session, &as_prompts(&ids), &generation, &mut |_, _| {});
        (ipus, generated.expect("generates").tokens)
    });
    assert!(
        tokens[0].0 < tokens[1].0,
        "{} IPUs, then {}",
        tokens[0].0,
        tokens[1].0
    );
    assert_eq!(tokens[0].1, tokens[1].1);
}

#[test]
fn a_text_ends_where_its_last_token_says_while_others_go_on() {
    let golden = Golden::load("tiny");
    let weights = sharpened(&golden.weights);
    let shape = CacheShape {
        batch: 2,
        prompt: 3,
        positions: 12,
    };
    let options = EngineOptions::default();
    let mut session = session(
        &golden.config,
        &weights,
        shape,
        Precision::F32,
        &options,
        64,
    );
    let ids = vec![vec![3, 1, 4], vec![35, 89]];
    let prompts = as_prompts(&ids);
    let mut run = |stop, new| {
        let generation = greedy(shape, new, stop);
        generate(&mut session, &prompts, &generation, &mut |_, _| {}).expect("generates")
    };
    let free = run(None, 10).tokens;
    let stop = free[0][4];
    let first = |tokens: &[u32]| tokens.iter().position(|&id| id == stop);
    let (in_first, in_second) = (first(&free[0]).unwrap(), first(&free[1]).unwrap_or(10));
    let stopped = run(Some(stop), 10);
    assert_eq!(stopped.tokens[0], free[0][..in_first]);
    assert_eq!(stopped.tokens[1], free[1][..in_second]);
    assert!(in_second > in_first, "one goes on alone");
    // Stopped at once, and nothing asked for.
    assert!(run(Some(free[0][0]), 10).tokens[0].is_empty());
    let nothing = run(None, 0);
    assert_eq!(nothing.tokens, [[0u32; 0]; 2]);
    assert_eq!(nothing.pace.prefills, 0);
}

#[test]
fn prompts_that_do_not_fit_are_named() {
    let golden = Golden::load("tiny");
    let shape = CacheShape {
        batch: 1,
        prompt: 3,
        positions: 6,
    };
    let options = EngineOptions::default();
    let mut session = session(
        &golden.config,
        &golden.weights,
        shape,
        Precision::F32,
        &options,
        8,
    );
    for (length, new, fits) in [(0, 2, false), (3, 4, true), (3, 5, false), (4, 1, false)] {
        let ids = vec![vec![1; length]];
        let generation = greedy(shape, new, None);
        let outcome = generate(&mut session, &as_prompts(&ids), &generation, &mut |_, _| {});
        assert_eq!(outcome.is_ok(), fits, "{length} and {new}");
    }
    assert!(session.run_part("main", &mut NoHost).is_err());
    let too_long = CacheShape {
        positions: 65,
        ..shape
    };
    for shape in [
        too_long,
        CacheShape { batch: 0, ..shape },
        CacheShape { prompt: 0, ..shape },
        CacheShape { prompt: 7, ..shape },
        CacheShape {
            batch: usize::MAX / 2,
            ..shape
        },
    ] {
        let machine = machine(1, 8);
        let plans = PlanCache::none();
        let outcome = compile_generation(&golden.config, &machine, Precision::F32, shape, &plans);
        assert!(outcome.is_err(), "{shape:?}");
    }
}

struct NoHost;

impl Host for NoHost {
    fn feed(&mut self, _: &str, _: &mut [u8]) -> Result<(), HostError> {
        Err(HostError::UnknownStream)
    }

    fn take(&mut self, _: &str, _: &[u8]) -> Result<(), HostError> {
        Err(HostError::UnknownStream)
    }
}
