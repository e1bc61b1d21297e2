//! Transpositions that only serve to hand an operand to a product are read through: the product takes the operand as it was before, which
//! costs its kernel little or nothing.
//!
//! A compiled program brings what has to be transposed in nearly square blocks (`even`), transposes those (`turned`), and brings the result to
//! the vertices of the product (the operand). Here the operand comes from where `even` came from, its last two dimensions exchanged,
//! and the product is told so. The chain of sums of an element does not depend on it, so no bit does.
//!
//! Precondition: nobody else knows `turned` and the operand; what they come from is still there when the operand is brought. Postcondition: the
//! same steps, some of them empty, so numbers of steps and vertex groups are what they were.

use std::collections::BTreeSet;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use superstep_ir::ids::VarId;
use superstep_ir::program::exchange::views_are_affine;
use superstep_ir::program::{Codelet, Direction, Operand, Program, Step, Variable, View};
use superstep_ir::types::Shape;

use super::tile_span;
use super::uses::Uses;
use crate::layout::Layouts;

/// Procedure and index of a step in it.
type At = (usize, usize);

/// A product turns its second operand on each of its tiles. That takes a tenth of the time of a transposition on its own (3.7 ns an element,
/// against 0.3 ns), so it is too much work where more tiles have copies of the same block.
const MOST_COPIES: usize = 8;

/// The life of what no step names any more: a step that no program has.
const NEVER: (u32, u32) = (u32::MAX - 1, u32::MAX - 1);

/// A transposition that can be read through.
struct Plan {
    at: At,
    source: VarId,
    /// From the source to what is transposed.
    views: Vec<View>,
    even: Option<VarId>,
    turned: VarId,
    operands: BTreeSet<VarId>,
    /// The last step that brings an operand.
    last: usize,
}

/// The program without transpositions that can be read through; `None` if there are none. `numbers` are those of the steps, by procedure.
pub(crate) fn read_through(
    program: &Program,
    layouts: &Layouts,
    numbers: &[Vec<u32>],
) -> Option<Program> {
    let found = transpositions(program);
    if found.is_empty() {
        return None;
    }
    let search = Search {
        program,
        layouts,
        uses: Uses::of(program),
        places: places(program),
    };
    // A value may lie where an earlier transposition put its results.
    let mut gone = FxHashSet::default();
    let mut plans: Vec<Plan> = Vec::new();
    for at in found {
        if let Some(plan) = search.plan(at, &gone)
            && numbers[at.0][plan.last] > 0
        {
            gone.insert(plan.turned);
            gone.extend(plan.even);
            plans.push(plan);
        }
    }
    let mut rewritten = (!plans.is_empty()).then(|| program.clone())?;
    for plan in &plans {
        plan.apply(&mut rewritten, &search.places, numbers);
    }
    Some(rewritten)
}

/// The steps that do nothing but transpose one variable.
fn transpositions(program: &Program) -> Vec<At> {
    let mut found = Vec::new();
    for (p, procedure) in program.procedures.iter().enumerate() {
        for (s, step) in procedure.steps.iter().enumerate() {
            if let Step::Compute(set) = step
                && let [group] = &set.groups[..]
                && group.codelet == Codelet::Transpose
            {
                found.push((p, s));
            }
        }
    }
    found
}

/// By variable, the steps with moves or vertex groups that name it.
fn places(program: &Program) -> Vec<SmallVec<[At; 2]>> {
    let mut places = vec![SmallVec::<[At; 2]>::new(); program.variables.len()];
    for (p, procedure) in program.procedures.iter().enumerate() {
        for (s, step) in procedure.steps.iter().enumerate() {
            let mut add = |v: VarId| {
                let places = &mut places[v.index()];
                if places.last() != Some(&(p, s)) {
                    places.push((p, s));
                }
            };
            match step {
                Step::Exchange(exchange) => exchange.moves.iter().for_each(|mv| {
                    add(mv.source);
                    add(mv.destination);
                }),
                Step::Compute(set) => {
                    let operands = set
                        .groups
                        .iter()
                        .flat_map(|g| g.inputs.iter().chain(&g.outputs));
                    operands.for_each(|o| add(o.variable));
                }
                _ => {}
            }
        }
    }
    places
}

struct Search<'p> {
    program: &'p Program,
    layouts: &'p Layouts,
    uses: Uses,
    places: Vec<SmallVec<[At; 2]>>,
}

impl Search<'_> {
    /// How to read through the transposition at a step, if that is possible.
    fn plan(&self, at: At, gone: &FxHashSet<VarId>) -> Option<Plan> {
        let (from, turned) = self.ends(at)?;
        let last = self.last_sent(at, turned)?;
        let operands = self.operands(turned)?;
        let plan = |source, views, even| Plan {
            at,
            source,
            views,
            even,
            turned,
            operands: operands.clone(),
            last,
        };
        let through_even = self
            .brought(at, from)
            .map(|(first, source, views)| (first, plan(source, views, Some(from))));
        let direct = (at.1, plan(from, Vec::new(), None));
        let mut plans = through_even.into_iter().chain([direct]);
        let plan = plans.find(|(first, plan)| self.is_possible(*first, plan, gone));
        plan.map(|(_, plan)| plan)
    }

    /// What is transposed and its transpose, which lies on the same tiles, cut the same way.
    fn ends(&self, (procedure, step): At) -> Option<(VarId, VarId)> {
        let Step::Compute(set) = &self.program.procedures[procedure].steps[step] else {
            return None;
        };
        let group = set.groups.first()?;
        let (
            &[
                Operand {
                    variable: from,
                    entry: None,
                },
            ],
            &[
                Operand {
                    variable: to,
                    entry: None,
                },
            ],
        ) = (&group.inputs[..], &group.outputs[..])
        else {
            return None;
        };
        let mut expected = self.program.variable(from).clone();
        let found = self.program.variable(to);
        transpose(&mut expected)?;
        let fits =
            (&expected.ty, expected.grid, &expected.cuts) == (&found.ty, found.grid, &found.cuts);
        let of = self.uses[to];
        let passes = (of.written, of.received, of.read, of.kept) == (1, 0, 0, false);
        (fits && passes && from != to).then_some((from, to))
    }

    /// The last step that sends `turned`; all are of the procedure in which it is made, and later.
    fn last_sent(&self, at: At, turned: VarId) -> Option<usize> {
        let mut sent = self.places[turned.index()]
            .iter()
            .filter(|&&place| place != at);
        let later = sent.clone().all(|place| place.0 == at.0 && place.1 > at.1);
        later.then(|| sent.next_back().map(|place| place.1))?
    }

    /// The variables that `turned` is sent to: all of products' operands, and of nothing but it.
    fn operands(&self, turned: VarId) -> Option<BTreeSet<VarId>> {
        let sent = |&at: &At| match self.step(at) {
            Step::Exchange(exchange) => &exchange.moves[..],
            _ => &[],
        };
        let moves = || self.places[turned.index()].iter().flat_map(sent);
        let moves = || moves().filter(|mv| mv.source == turned);
        let operands: BTreeSet<VarId> = moves().map(|mv| mv.destination).collect();
        let from_here = |operand: VarId| {
            let brought = moves().filter(|mv| mv.destination == operand).count();
            self.uses[operand].received as usize == brought
        };
        let mut all = operands.iter();
        all.all(|&operand| from_here(operand) && self.is_factor(operand))
            .then_some(operands)
    }

    /// True when products read a variable that moves bring, and nobody else knows it.
    fn is_factor(&self, variable: VarId) -> bool {
        let of = self.uses[variable];
        let rank = self.program.variable(variable).ty.shape.rank();
        let matrices = rank >= 2 + usize::from(of.entry_read);
        let read_only = of.read > 0 && (of.written, of.sent, of.kept) == (0, 0, false);
        let layout = self.layouts.layout(variable);
        let few = layout.blocks.len() <= MOST_COPIES * layout.first_copies.len();
        let by_products = |&at: &At| match self.step(at) {
            Step::Compute(set) => set.groups.iter().all(|group| {
                let product = matches!(group.codelet, Codelet::Matmul { .. });
                let mut factors = group.inputs.iter().enumerate();
                factors.all(|(i, input)| {
                    input.variable != variable || (product && (i == 0 || (i == 1 && few)))
                })
            }),
            _ => true,
        };
        matrices && read_only && self.places[variable.index()].iter().all(by_products)
    }

    /// If all that is done with `even` before it is transposed is one move that brings it: the step, where it comes from, and how.
    fn brought(&self, at: At, even: VarId) -> Option<(usize, VarId, Vec<View>)> {
        let of = self.uses[even];
        if (of.received, of.read, of.count(), of.kept) != (1, 1, 2, false) {
            return None;
        }
        let &(procedure, step) = self.places[even.index()]
            .iter()
            .find(|&&place| place != at)?;
        let Step::Exchange(exchange) = self.step((procedure, step)) else {
            return None;
        };
        let mv = exchange.moves.iter().find(|mv| mv.destination == even)?;
        let (source, even) = (
            self.program.variable(mv.source),
            self.program.variable(even),
        );
        let shape = viewed(&source.ty.shape, &mv.views)?;
        let whole = shape == even.ty.shape && mv.at.iter().all(|&first| first == 0);
        let fits = whole && source.ty.dtype == even.ty.dtype && procedure == at.0 && step < at.1;
        fits.then(|| (step, mv.source, mv.views.clone()))
    }

    /// True when the source of `plan` is still what it was at step `first` when the operands are brought, and moves can bring them.
    fn is_possible(&self, first: usize, plan: &Plan, gone: &FxHashSet<VarId>) -> bool {
        let of_source = tile_span(self.program, self.layouts, plan.source);
        let steps = &self.program.procedures[plan.at.0].steps[first..=plan.last];
        let intact = steps.iter().all(|step| {
            let changes = |v: &VarId| {
                let vanishes = *v == plan.turned || Some(*v) == plan.even || gone.contains(v);
                !vanishes && tile_span(self.program, self.layouts, *v).meets(&of_source)
            };
            written(self.program, step).is_some_and(|written| !written.iter().any(changes))
        });
        let source = &self.program.variable(plan.source).ty;
        let can_move = |step: &Step| match step {
            Step::Exchange(exchange) => {
                let mut moves = exchange.moves.iter().filter(|mv| mv.source == plan.turned);
                moves.all(|mv| {
                    let rank = self.program.variable(mv.destination).ty.shape.rank();
                    let views = plan.composed(self.program, &mv.views, rank);
                    mv.at.len() == rank && views_are_affine(&source.shape, &views)
                })
            }
            _ => true,
        };
        intact && steps.iter().all(can_move)
    }

    fn step(&self, (procedure, step): At) -> &Step {
        &self.program.procedures[procedure].steps[step]
    }
}

impl Plan {
    /// From the source to an operand of `rank` dimensions, transposed; `views` are from `turned` to the operand.
    fn composed(&self, program: &Program, views: &[View], rank: usize) -> Vec<View> {
        let turned = program.variable(self.turned).ty.shape.rank();
        let mut composed = self.views.clone();
        if !views.is_empty() {
            composed.push(transposition(turned));
            composed.extend_from_slice(views);
            composed.push(transposition(rank));
        }
        composed
    }

    fn apply(&self, program: &mut Program, places: &[SmallVec<[At; 2]>], numbers: &[Vec<u32>]) {
        for &(p, s) in &places[self.turned.index()] {
            if let Step::Exchange(exchange) = &program.procedures[p].steps[s] {
                let mut moves = exchange.moves.clone();
                for mv in moves.iter_mut().filter(|mv| mv.source == self.turned) {
                    let rank = mv.at.len();
                    mv.views = self.composed(program, &mv.views, rank);
                    mv.source = self.source;
                    mv.at.swap(rank - 2, rank - 1);
                }
                if let Step::Exchange(exchange) = &mut program.procedures[p].steps[s] {
                    exchange.moves = moves;
                }
            }
        }
        if let Step::Compute(set) = &mut program.procedures[self.at.0].steps[self.at.1] {
            set.groups.clear();
        }
        let brought = self.even.iter().flat_map(|even| &places[even.index()]);
        for &(p, s) in brought {
            if let Step::Exchange(exchange) = &mut program.procedures[p].steps[s] {
                exchange
                    .moves
                    .retain(|mv| Some(mv.destination) != self.even);
            }
        }
        for &operand in &self.operands {
            for &(p, s) in &places[operand.index()] {
                flip(&mut program.procedures[p].steps[s], operand);
            }
            let _ = transpose(&mut program.variables[operand.index()]);
        }
        for gone in [Some(self.turned), self.even].into_iter().flatten() {
            program.variables[gone.index()].live = Some(NEVER);
        }
        if let Some((_, last)) = &mut program.variables[self.source.index()].live {
            *last = (*last).max(numbers[self.at.0][self.last]);
        }
    }
}

/// Tells the products of a step that `operand` is stored the other way round.
fn flip(step: &mut Step, operand: VarId) {
    let Step::Compute(set) = step else {
        return;
    };
    for group in &mut set.groups {
        if let Codelet::Matmul {
            transpose_a,
            transpose_b,
            ..
        } = &mut group.codelet
        {
            for (input, flag) in group.inputs.iter().zip([transpose_a, transpose_b]) {
                *flag ^= input.variable == operand;
            }
        }
    }
}

/// Exchanges the last two dimensions of a variable, which then has blocks of the same bytes; `None` if it has fewer.
fn transpose(variable: &mut Variable) -> Option<()> {
    let rank = variable.ty.shape.rank();
    let (r, c) = (rank.checked_sub(2)?, rank - 1);
    variable.ty.shape.0.swap(r, c);
    variable.cuts.swap(r, c);
    Some(())
}

/// The view that exchanges the last two of `rank` dimensions, at least two.
fn transposition(rank: usize) -> View {
    let mut axes: SmallVec<[usize; 4]> = (0..rank).collect();
    axes.swap(rank - 2, rank - 1);
    View::Transpose(axes)
}

/// The shape of a tensor seen through views.
fn viewed(shape: &Shape, views: &[View]) -> Option<Shape> {
    let mut views = views.iter();
    views.try_fold(shape.clone(), |shape, view| view.apply(&shape))
}

/// What a step writes on tiles; `None` if it runs other steps.
fn written(program: &Program, step: &Step) -> Option<SmallVec<[VarId; 4]>> {
    Some(match step {
        Step::Compute(set) => {
            let outputs = set.groups.iter().flat_map(|g| &g.outputs);
            outputs.map(|o| o.variable).collect()
        }
        Step::Exchange(exchange) => exchange.moves.iter().map(|mv| mv.destination).collect(),
        Step::Host { stream, .. } => {
            let stream = &program.streams[*stream as usize];
            let fed = stream.direction == Direction::HostToDevice;
            fed.then_some(stream.variable).into_iter().collect()
        }
        Step::Remote { state, .. } => {
            SmallVec::from_slice(&[program.states[*state as usize].variable])
        }
        Step::Collective(c) => SmallVec::from_slice(&[c.destination]),
        Step::Sync(_) | Step::SetSeed { .. } => SmallVec::new(),
        Step::Repeat { .. } | Step::Call(_) | Step::Parallel(_) => return None,
    })
}
