//! The search: estimate all, compile the best, look around the winner, until nothing promises more or time is up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use serde::Serialize;
use superstep_passes::place::Recompute;

use super::neighbours::Limits;
use super::probe::Probe;
use super::space::{Candidate, Task};
use super::{Outcome, Plan};
use crate::compile::{Compiled, NoGraphs, PlanCache, compile_training};
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::report::format::{bytes, three_digits};
use crate::settings::TrainingSettings;

/// The name and version of the JSON form.
const SCHEMA: &str = "superstep.tune/1";

/// What is searched for, and for how long.
pub struct Tuner<'a> {
    pub name: &'a str,
    pub config: &'a Gpt2Config,
    /// Machine, sizes, precision and optimiser; its plan is replaced.
    pub base: &'a TrainingSettings,
    /// Where plans of products are kept.
    pub plans: &'a PlanCache,
    /// Samples of an update.
    pub global_batch: usize,
    pub time_limit: Duration,
    /// Plans that are compiled first: the one to compare with, then others that are known.
    pub seeds: Vec<Plan>,
}

/// What the search tells while it runs.
pub trait Progress {
    /// It works on this.
    fn at(&mut self, what: &str);
    /// A plan was compiled.
    fn compiled(&mut self, outcome: &Outcome, is_best: bool);
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Tuning {
    pub schema: &'static str,
    /// The first seed, if it fits.
    pub reference: Option<Outcome>,
    /// Compiled plans, the best first.
    pub outcomes: Vec<Outcome>,
    /// Why other kinds of plans lost, by kind.
    pub rejected: IndexMap<String, String>,
    pub estimated: usize,
    /// What the ops allow at most, with the best size of micro-batch.
    pub ceiling: Option<Ceiling>,
    pub seconds: f64,
    /// Time was up before all was tried that promised more.
    pub cut_short: bool,
    /// The best plan's program.
    #[serde(skip)]
    pub winner: Option<Compiled>,
}

/// The rate of a pod whose IPUs all work all the time, and run nothing forward again: with tiles of any size and no pipeline to fill, no
/// links, no updates, this is what the ops as they are compiled leave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ceiling {
    pub batch_size: usize,
    /// Of one IPU that does everything.
    pub cycles_per_sample: f64,
    pub samples_per_second: f64,
}

impl Tuner<'_> {
    /// Searches.
    ///
    /// # Errors
    /// What has nothing to do with a plan: an impossible model, for instance.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<Tuning, Error> {
        let task = Task {
            config: self.config,
            base: self.base,
            global_batch: self.global_batch,
        };
        let mut search = Search {
            tuner: self,
            task,
            start: Instant::now(),
            probes: BTreeMap::new(),
            tried: Vec::new(),
            outcomes: Vec::new(),
            rejected: IndexMap::new(),
            winner: None,
            cut_short: false,
        };
        search.run(progress)
    }
}

struct Search<'a> {
    tuner: &'a Tuner<'a>,
    task: Task<'a>,
    start: Instant,
    /// By samples of a micro-batch and IPUs of a group.
    probes: BTreeMap<(usize, u32), Probe>,
    tried: Vec<Plan>,
    outcomes: Vec<Outcome>,
    rejected: IndexMap<String, String>,
    winner: Option<Compiled>,
    cut_short: bool,
}

/// A plan is compiled if its estimate is at least this part of the best rate so far: estimates are off by that much.
const MARGIN: f64 = 0.85;
/// Shapes of plans whose best is refined.
const SHAPES_REFINED: usize = 3;
/// Replicas, samples of a micro-batch, IPUs of a group.
type Shape = (u32, usize, u32);
/// An IPU may seem so much fuller than it is.
const FULL: f64 = 1.1;

impl Search<'_> {
    fn run(&mut self, progress: &mut dyn Progress) -> Result<Tuning, Error> {
        for seed in self.tuner.seeds.clone() {
            self.compile(&seed, progress)?;
        }
        let reference = self.tuner.seeds.first().and_then(|seed| {
            let outcome = self.outcomes.iter().find(|o| o.plan == *seed);
            outcome.cloned()
        });
        let candidates = self.candidates(progress)?;
        let estimated = candidates.len();
        for candidate in candidates {
            let promises = candidate.samples_per_second >= MARGIN * self.best();
            if promises && self.is_late() {
                self.cut_short = true;
            } else if promises {
                self.compile(&candidate.plan, progress)?;
            } else {
                let rate = three_digits(candidate.samples_per_second);
                let why = self.of_a_group(&candidate.plan);
                self.reject(
                    &candidate.plan,
                    format!("about {rate} samples/s by estimate{why}"),
                );
            }
        }
        self.look_around(progress)?;
        self.outcomes
            .sort_by(|a, b| b.samples_per_second.total_cmp(&a.samples_per_second));
        for outcome in self.outcomes.iter().skip(1) {
            let rate = three_digits(outcome.samples_per_second);
            let kind = kind(&outcome.plan);
            let best = self.outcomes.first().map(|o| super::search::kind(&o.plan));
            if best.as_ref() != Some(&kind) {
                let why = self.of_a_group(&outcome.plan);
                let reason = format!(
                    "{rate} samples/s: {}{why}",
                    against(&self.outcomes[0], outcome)
                );
                self.rejected.entry(kind).or_insert(reason);
            }
        }
        Ok(Tuning {
            schema: SCHEMA,
            reference,
            outcomes: std::mem::take(&mut self.outcomes),
            rejected: std::mem::take(&mut self.rejected),
            estimated,
            ceiling: self.ceiling(),
            seconds: self.start.elapsed().as_secs_f64(),
            cut_short: self.cut_short,
            winner: self.winner.take(),
        })
    }

    fn ceiling(&self) -> Option<Ceiling> {
        let machine = self.task.machine();
        let layers = self.tuner.config.n_layer as f64;
        let whole = self.probes.iter().filter(|((_, members), _)| *members == 1);
        let ceilings = whole.map(|(&(batch_size, _), probe)| {
            let cycles_per_sample = (probe.outer + layers * probe.layer) / batch_size as f64;
            Ceiling {
                batch_size,
                cycles_per_sample,
                samples_per_second: f64::from(machine.ipus) * machine.clock_hz / cycles_per_sample,
            }
        });
        ceilings.max_by(|a, b| a.samples_per_second.total_cmp(&b.samples_per_second))
    }

    fn is_late(&self) -> bool {
        self.start.elapsed() >= self.tuner.time_limit
    }

    fn best(&self) -> f64 {
        self.outcomes
            .iter()
            .map(|o| o.samples_per_second)
            .fold(0.0, f64::max)
    }

    fn reject(&mut self, plan: &Plan, reason: String) {
        self.rejected.entry(kind(plan)).or_insert(reason);
    }

    /// Every plan that may fit, the best by estimate first.
    fn candidates(&mut self, progress: &mut dyn Progress) -> Result<Vec<Candidate>, Error> {
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut groups = self.task.groups();
        for batch_size in self.task.batch_sizes() {
            let known = candidates.len();
            let mut worth = Vec::new();
            for &members in &groups {
                if self.is_late() {
                    self.cut_short = true;
                    break;
                }
                let Some(probe) = self.probe(batch_size, members, progress)? else {
                    continue;
                };
                let found = self.that_may_fit(self.task.plans(batch_size, members, &probe), &probe);
                let (here, best) = (fastest(&found), fastest(&candidates));
                candidates.extend(found);
                if members == 1 || here >= MARGIN * best {
                    worth.push(members);
                } else {
                    // Larger groups have more to pass on, and larger micro-batches as much for each sample.
                    let kind =
                        format!("larger micro-batches or groups than {batch_size} on {members}");
                    let reason =
                        "not estimated: groups of this size are far behind already".to_owned();
                    self.rejected.entry(kind).or_insert(reason);
                    break;
                }
            }
            groups = worth;
            // Larger ones need more still.
            if candidates.len() == known {
                break;
            }
        }
        candidates.sort_by(|a, b| b.samples_per_second.total_cmp(&a.samples_per_second));
        Ok(candidates)
    }

    /// The probe of a size of micro-batch, on a group of so many IPUs; none if one layer does not fit.
    fn probe(
        &mut self,
        batch_size: usize,
        members: u32,
        progress: &mut dyn Progress,
    ) -> Result<Option<Probe>, Error> {
        let over = match members {
            1 => String::new(),
            _ => format!(" on groups of {members} IPUs"),
        };
        progress.at(&format!("probing micro-batches of {batch_size}{over}"));
        let Tuner {
            config,
            base,
            plans,
            ..
        } = self.tuner;
        match Probe::of(config, base, plans, batch_size, members) {
            Ok(probe) => {
                self.probes.insert((batch_size, members), probe);
                Ok(Some(probe))
            }
            Err(error) if error.is_overflow() => {
                let reason = format!("one layer does not fit: {}", first_line(&error));
                let kind = format!("micro-batches of {batch_size} or more{over}");
                self.rejected.insert(kind, reason);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Those plans that may fit by their estimate.
    fn that_may_fit(&mut self, plans: Vec<Plan>, probe: &Probe) -> Vec<Candidate> {
        let available = self.task.available();
        let mut found = Vec::new();
        for plan in plans {
            let candidate = self.task.estimate(plan, probe);
            let (ipu, needs) = candidate.fullest;
            if needs > FULL * available {
                let reason = format!(
                    "does not fit: a tile of IPU {ipu} would need about {} of {}",
                    bytes(needs as u64),
                    bytes(available as u64)
                );
                self.reject(&candidate.plan, reason);
            } else {
                found.push(candidate);
            }
        }
        found
    }

    /// What the probes say of a layer that is divided.
    fn of_a_group(&self, plan: &Plan) -> String {
        let members = plan.tensor_parallel;
        let probe = |members| self.probes.get(&(plan.batch_size, members));
        let (Some(whole), Some(divided)) = (probe(1), probe(members)) else {
            return String::new();
        };
        let of = |probe: &Probe| probe.layer + probe.again;
        if members == 1 {
            return String::new();
        }
        format!(
            ": {members} IPUs take {:.2} of the cycles of one for a layer, {:.0} % of them for their links",
            of(divided) / of(whole),
            100.0 * divided.links / of(divided),
        )
    }

    /// Compiles a plan that was not tried before, and keeps it if it is the best.
    fn compile(&mut self, plan: &Plan, progress: &mut dyn Progress) -> Result<(), Error> {
        if self.tried.contains(plan) {
            return Ok(());
        }
        self.tried.push(plan.clone());
        progress.at(&plan.options());
        let settings = plan.settings(self.tuner.base);
        let compiled = compile_training(
            self.tuner.name,
            self.tuner.config,
            &settings,
            self.tuner.plans,
            &mut NoGraphs,
        );
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(error @ Error::Compile(_)) => {
                let what = if error.is_overflow() {
                    "does not fit: "
                } else {
                    ""
                };
                self.reject(plan, format!("{what}{}", first_line(&error)));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let outcome = Outcome::of(plan.clone(), &compiled);
        // The same plan with what the compiler found is the same program.
        self.tried.push(Plan {
            loss_chunks: Some(outcome.loss_chunks),
            ..plan.clone()
        });
        let is_best = outcome.samples_per_second > self.best();
        progress.compiled(&outcome, is_best);
        if is_best {
            self.winner = Some(compiled);
        }
        self.outcomes.push(outcome);
        Ok(())
    }

    /// Small changes of the best plan of each of the best shapes, until none is better: a layer to a neighbour, a layer that is not run forward
    /// again, other slices and row blocks of the head.
    fn look_around(&mut self, progress: &mut dyn Progress) -> Result<(), Error> {
        let mut shapes: Vec<(Shape, f64)> = Vec::new();
        for outcome in &self.outcomes {
            let (shape, rate) = (shape(&outcome.plan), outcome.samples_per_second);
            match shapes.iter_mut().find(|known| known.0 == shape) {
                Some(known) => known.1 = known.1.max(rate),
                None => shapes.push((shape, rate)),
            }
        }
        shapes.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (shape, _) in shapes.into_iter().take(SHAPES_REFINED) {
            self.refine(shape, progress)?;
        }
        Ok(())
    }

    /// Follows the best plan of a shape from neighbour to neighbour.
    fn refine(&mut self, of: Shape, progress: &mut dyn Progress) -> Result<(), Error> {
        let mut at: Option<f64> = None;
        loop {
            let plans = self.outcomes.iter().filter(|o| shape(&o.plan) == of);
            let best = plans.max_by(|a, b| a.samples_per_second.total_cmp(&b.samples_per_second));
            let Some(best) = best.filter(|b| at.is_none_or(|at| b.samples_per_second > at)) else {
                return Ok(());
            };
            at = Some(best.samples_per_second);
            let (plan, chunks) = (best.plan.clone(), best.loss_chunks);
            for neighbour in self.promising_neighbours(&plan, chunks) {
                if self.is_late() {
                    self.cut_short = true;
                    return Ok(());
                }
                self.compile(&neighbour, progress)?;
            }
        }
    }

    /// Neighbours that are no worse by estimate, those that promise most first.
    fn promising_neighbours(&self, plan: &Plan, chunks: usize) -> Vec<Plan> {
        let limits = Limits {
            layers: self.tuner.config.n_layer as u32,
            vocabulary: self.tuner.config.vocab_size,
            block_size: self.tuner.base.block_size,
        };
        let mut neighbours = limits.neighbours(plan, chunks);
        let probe = (plan.batch_size, plan.tensor_parallel);
        if let Some(probe) = self.probes.get(&probe) {
            let rate = |plan: &Plan| self.task.estimate(plan.clone(), probe).samples_per_second;
            let own = rate(plan);
            neighbours.retain(|neighbour| rate(neighbour) >= own);
            neighbours.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        }
        neighbours
    }
}

fn fastest(candidates: &[Candidate]) -> f64 {
    let rates = candidates.iter().map(|c| c.samples_per_second);
    rates.fold(0.0, f64::max)
}

fn shape(plan: &Plan) -> Shape {
    (plan.replicas, plan.batch_size, plan.tensor_parallel)
}

/// What plans of a kind share.
pub(super) fn kind(plan: &Plan) -> String {
    let again = match &plan.recompute {
        Recompute::Nothing => "nothing again",
        Recompute::EveryLayer => "all layers again",
        Recompute::Layers(_) => "some layers again",
        Recompute::ButProducts(_) => "all again, some without products",
    };
    format!(
        "{} × {} IPUs{}, micro-batches of {}, {again}{}",
        plan.replicas,
        plan.ipus_per_replica(),
        match plan.tensor_parallel {
            1 => String::new(),
            members => format!(" in groups of {members}"),
        },
        plan.batch_size,
        if plan.offchip { ", off chip" } else { "" }
    )
}

/// The factor in which a plan is furthest behind another.
fn against(best: &Outcome, other: &Outcome) -> String {
    let (a, b) = (&best.factors, &other.factors);
    let behind = [
        ("more cycles a sample", b.work / a.work.max(1.0)),
        (
            "IPUs wait more for each other and for links",
            a.balance / b.balance.max(1e-9),
        ),
        (
            "filling, emptying and updates take more",
            a.steady / b.steady.max(1e-9),
        ),
    ];
    let worst = behind.into_iter().max_by(|x, y| x.1.total_cmp(&y.1));
    worst.map_or_else(String::new, |(why, times)| {
        format!("{why} ({:+.0} %)", 100.0 * (times - 1.0))
    })
}

fn first_line(error: &Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.split("; the largest")
        .next()
        .unwrap_or(line)
        .to_owned()
}
