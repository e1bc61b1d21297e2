//! `superstep solve`: the compiler's solvers on problems from files.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use superstep_passes::solve::fit::{Fit, Interval, fit, max_live};

use super::output::{check_writable_file, say};
use crate::atomic_file;
use crate::error::Error;
use crate::report::format::{grouped, seconds};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    problem: Problem,
}

#[derive(Debug, Subcommand)]
enum Problem {
    /// Addresses for blocks that live for a while in one memory.
    Offsets(Offsets),
}

#[derive(Debug, Args)]
struct Offsets {
    /// Table with the columns id, lower, upper, size: a block of `size` bytes that lives in [lower, upper).
    file: PathBuf,
    /// Bytes of the memory.
    #[arg(long = "capacity", value_name = "BYTES")]
    capacity: u64,
    /// Where the table goes, with a column `offset` added.
    #[arg(short = 'o', long = "output", value_name = "OUT.csv")]
    output: PathBuf,
    /// Search nodes after which to give up.
    #[arg(long = "budget", value_name = "NODES", default_value_t = 400_000)]
    budget: u64,
}

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        match &self.problem {
            Problem::Offsets(offsets) => offsets.run(),
        }
    }
}

impl Offsets {
    fn run(&self) -> Result<(), Error> {
        let shown = self.file.display();
        let text = std::fs::read_to_string(&self.file)
            .map_err(|error| Error::failed(format!("cannot read {shown}: {error}")))?;
        let table =
            Table::parse(&text).map_err(|error| Error::failed(format!("{shown}: {error}")))?;
        check_writable_file(&self.output)?;
        let bound = max_live(&table.items);
        let start = Instant::now();
        let outcome = fit(&table.items, self.capacity, self.budget);
        let spent = start.elapsed().as_secs_f64();
        let (count, capacity) = (table.items.len(), grouped(self.capacity));
        let alive = format!("at most {} bytes are alive at a time", grouped(bound));
        match outcome {
            Fit::Found { offsets, nodes } => {
                atomic_file::write(&self.output, table.with_offsets(&offsets).as_bytes())?;
                let ends = offsets.iter().zip(&table.items).map(|(o, i)| o + i.size);
                let height = grouped(ends.max().unwrap_or(0));
                say(format_args!(
                    "{shown}: {count} blocks fit into {capacity} bytes: highest end {height}, {alive}; {} nodes, {}",
                    grouped(nodes),
                    seconds(spent)
                ));
                Ok(())
            }
            Fit::Impossible { .. } => Err(Error::failed(format!(
                "{shown}: the {count} blocks cannot fit into {capacity} bytes: {alive}"
            ))),
            Fit::Unknown { nodes } => Err(Error::failed(format!(
                "{shown}: no way was found to fit the {count} blocks into {capacity} bytes; {alive}, so there may be one"
            ))
            .with_hint(format!(
                "{} nodes were searched in {}; --budget allows more",
                grouped(nodes),
                seconds(spent)
            ))),
        }
    }
}

/// A table of blocks, with the lines it came from.
struct Table {
    header: String,
    lines: Vec<String>,
    items: Vec<Interval>,
}

/// Lines after which a table is no problem for a search any more.
const MOST_BLOCKS: usize = 100_000;

impl Table {
    fn parse(text: &str) -> Result<Table, String> {
        let mut lines = text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim().is_empty());
        let (_, header) = lines.next().ok_or("the table is empty")?;
        let header = header.trim_start_matches('\u{feff}').trim();
        let names: Vec<&str> = header.split(',').map(str::trim).collect();
        let column = |name: &str| {
            let at = names.iter().position(|n| n.eq_ignore_ascii_case(name));
            at.ok_or_else(|| format!("there is no column `{name}` in `{header}`"))
        };
        let (id, columns) = (
            column("id")?,
            [column("lower")?, column("upper")?, column("size")?],
        );
        if column("offset").is_ok() {
            return Err("the table has a column `offset` already".into());
        }
        let mut table = Table {
            header: header.into(),
            lines: Vec::new(),
            items: Vec::new(),
        };
        let mut ids = std::collections::HashSet::new();
        for (number, line) in lines {
            let at = |what: String| format!("line {}: {what}", number + 1);
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            if fields.len() != names.len() {
                return Err(at(format!(
                    "{} fields, expected {}",
                    fields.len(),
                    names.len()
                )));
            }
            if !ids.insert(fields[id]) {
                return Err(at(format!("the id `{}` is there twice", fields[id])));
            }
            table.items.push(interval(&fields, &columns).map_err(at)?);
            table.lines.push(line.trim_end().into());
            if table.items.len() > MOST_BLOCKS {
                return Err(format!("more than {MOST_BLOCKS} blocks"));
            }
        }
        if table.items.is_empty() {
            return Err("the table has no blocks".into());
        }
        Ok(table)
    }

    fn with_offsets(&self, offsets: &[u64]) -> String {
        let mut text = format!("{},offset\n", self.header);
        for (line, offset) in self.lines.iter().zip(offsets) {
            text += &format!("{line},{offset}\n");
        }
        text
    }
}

/// The block of a line; `columns` are those of lower, upper and size.
fn interval(fields: &[&str], columns: &[usize; 3]) -> Result<Interval, String> {
    let mut numbers = [0u64; 3];
    for ((number, &column), name) in numbers
        .iter_mut()
        .zip(columns)
        .zip(["lower", "upper", "size"])
    {
        let field = fields[column];
        *number = field
            .parse()
            .map_err(|_| format!("{name} is `{field}`, expected a whole number"))?;
    }
    let [lower, upper, size] = numbers;
    if lower >= upper {
        return Err(format!("lower {lower} is not below upper {upper}"));
    }
    if size == 0 || size > 1 << 60 {
        return Err(format!("a size of {size} bytes is not possible"));
    }
    Ok(Interval { lower, upper, size })
}
