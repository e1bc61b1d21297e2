//! Sweeps as a table for a person, and as CSV or JSON for programs.

use std::path::Path;

use super::{Figures, Outcome, Sweep};
use crate::csv::quoted;
use crate::error::Error;
use crate::report::format::{bytes, grouped, share, three_digits};
use crate::report::terminal::table as columns;

/// A file format, by the ending of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    Json,
}

impl Format {
    pub fn of(path: &Path) -> Result<Format, Error> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("csv") => Ok(Format::Csv),
            Some("json") => Ok(Format::Json),
            _ => Err(Error::usage(format!(
                "{} must end in .csv or .json",
                path.display()
            ))),
        }
    }

    /// The text of a file.
    pub fn text(self, sweep: &Sweep) -> String {
        match self {
            Format::Csv => lines(sweep),
            Format::Json => {
                // Plain structs of numbers and text: there is nothing in them that JSON lacks.
                let mut text = serde_json::to_string_pretty(sweep).unwrap_or_default();
                text.push('\n');
                text
            }
        }
    }
}

/// A figure as text.
type Cell = fn(&Figures) -> String;

/// Figures of a row, in the order of the columns of a CSV file.
const FIGURES: [(&str, Cell); 11] = [
    ("ipus", |f| f.ipus.to_string()),
    ("cycles", |f| f.cycles.to_string()),
    ("compute_cycles", |f| f.compute_cycles.to_string()),
    ("exchange_cycles", |f| f.exchange_cycles.to_string()),
    ("sync_cycles", |f| f.sync_cycles.to_string()),
    ("inter_ipu_cycles", |f| f.inter_ipu_cycles.to_string()),
    ("host_cycles", |f| f.host_cycles.to_string()),
    ("ideal_cycles", |f| f.ideal_cycles.to_string()),
    ("seconds_per_update", |f| f.seconds_per_update.to_string()),
    ("samples_per_second", |f| f.samples_per_second.to_string()),
    ("max_tile_bytes", |f| f.max_tile_bytes.to_string()),
];

fn lines(sweep: &Sweep) -> String {
    let mut header: Vec<String> = sweep.parameters.iter().map(|key| quoted(key)).collect();
    header.push("status".into());
    header.extend(FIGURES.iter().map(|(name, _)| (*name).to_owned()));
    header.push("error".into());
    let mut lines = vec![header.join(",")];
    for point in &sweep.points {
        let mut cells: Vec<String> = point.values.iter().map(|value| quoted(value)).collect();
        cells.push(point.status.name().to_owned());
        let figure = |get: Cell| point.figures.as_ref().map(get);
        cells.extend(
            FIGURES
                .iter()
                .map(|(_, get)| figure(*get).unwrap_or_default()),
        );
        // The first line says what; the others, in the table and in JSON, say more.
        let error = point.error.as_deref().and_then(|e| e.lines().next());
        cells.push(quoted(error.unwrap_or_default()));
        lines.push(cells.join(","));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Lines of an error that a table shows: what overflows, and the largest that lies there.
const LINES: usize = 4;

/// One row a point, and why some have no figures.
pub fn table(sweep: &Sweep) -> String {
    let mut header: Vec<&str> = sweep.parameters.iter().map(String::as_str).collect();
    header.extend([
        "IPUs",
        "cycles",
        "compute",
        "exchange",
        "sync",
        "links",
        "ideal",
        "samples/s",
        "fullest tile",
    ]);
    let rows = sweep.points.iter().map(|point| {
        let mut row = point.values.clone();
        row.extend(cells(point));
        row
    });
    let mut text = columns(&header, rows, 0);
    for point in &sweep.points {
        if let Some(error) = &point.error {
            let named: Vec<String> = sweep
                .parameters
                .iter()
                .zip(&point.values)
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let lines: Vec<&str> = error.lines().take(LINES).collect();
            text.push_str(&format!("\n\n{}: {}", named.join(" "), lines.join("\n")));
        }
    }
    text
}

fn cells(point: &Outcome) -> Vec<String> {
    let Some(f) = &point.figures else {
        return vec!["–".into(), point.status.name().into()];
    };
    vec![
        f.ipus.to_string(),
        grouped(f.cycles),
        share(f.compute_cycles, f.cycles),
        share(f.exchange_cycles, f.cycles),
        share(f.sync_cycles, f.cycles),
        share(f.inter_ipu_cycles, f.cycles),
        share(f.ideal_cycles, f.cycles),
        three_digits(f.samples_per_second),
        bytes(f.max_tile_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::{SCHEMA, Status};
    use super::*;

    fn sweep() -> Sweep {
        let figures = Figures {
            ipus: 1,
            cycles: 1000,
            compute_cycles: 600,
            exchange_cycles: 300,
            sync_cycles: 100,
            inter_ipu_cycles: 0,
            host_cycles: 0,
            ideal_cycles: 200,
            seconds_per_update: 0.5,
            samples_per_second: 2.0,
            max_tile_bytes: 2048,
        };
        let point = |value: &str, figures: Option<Figures>, error: Option<&str>| Outcome {
            values: vec![value.into()],
            status: if figures.is_some() {
                Status::Fits
            } else {
                Status::DoesNotFit
            },
            error: error.map(str::to_owned),
            figures,
        };
        Sweep {
            schema: SCHEMA,
            model: "tiny".into(),
            machine: "ipu".into(),
            recompiled: true,
            parameters: vec!["workers".into()],
            points: vec![
                point("6", Some(figures), None),
                point("7", None, Some("tile 3, \"full\"")),
            ],
        }
    }

    #[test]
    fn a_csv_file_has_a_line_a_point() {
        let expected = "workers,status,ipus,cycles,compute_cycles,exchange_cycles,sync_cycles,inter_ipu_cycles,host_cycles,ideal_cycles,\
                        seconds_per_update,samples_per_second,max_tile_bytes,error\n\
                        6,fits,1,1000,600,300,100,0,0,200,0.5,2,2048,\n\
                        7,does not fit,,,,,,,,,,,,\"tile 3, \"\"full\"\"\"\n";
        assert_eq!(Format::Csv.text(&sweep()), expected);
    }

    #[test]
    fn json_has_figures_or_an_error() {
        let json: serde_json::Value = serde_json::from_str(&Format::Json.text(&sweep())).unwrap();
        assert_eq!(json["points"][0]["cycles"], 1000);
        assert_eq!(json["points"][1]["status"], "does_not_fit");
        assert_eq!(json["points"][1]["error"], "tile 3, \"full\"");
        assert!(json["points"][1].get("cycles").is_none());
    }

    #[test]
    fn the_ending_decides() {
        assert_eq!(Format::of("a.csv".as_ref()).unwrap(), Format::Csv);
        assert_eq!(Format::of("a.json".as_ref()).unwrap(), Format::Json);
        assert!(Format::of("a.txt".as_ref()).is_err() && Format::of("a".as_ref()).is_err());
    }
}
