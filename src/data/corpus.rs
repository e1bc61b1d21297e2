//! Which files a data set is made of, and what kind they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::DataError;

/// How rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A row a line.
    Text,
    /// An object a line.
    JsonLines,
    Parquet,
}

impl Kind {
    /// By the ending of a file's name: anything that is not known is text.
    pub fn of(path: &Path) -> Kind {
        match extension(path).as_str() {
            "jsonl" | "ndjson" | "json" => Kind::JsonLines,
            "parquet" => Kind::Parquet,
            _ => Kind::Text,
        }
    }
}

/// Files of one kind, in order, and which of their rows count.
#[derive(Clone, Debug, PartialEq)]
pub struct Corpus {
    /// As the user named it.
    pub path: PathBuf,
    pub files: Vec<PathBuf>,
    pub kind: Kind,
    /// Column of the text; absent: `text`.
    pub column: Option<String>,
    pub part: Part,
}

/// Which rows of a corpus count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    All,
    /// The first so many percent.
    First(f64),
    /// All but those.
    Rest(f64),
}

impl Part {
    /// The numbers of the rows, out of `rows`; half a row is rounded to the even number, as by Hugging Face's data sets.
    pub(super) fn range(self, rows: u64) -> std::ops::Range<u64> {
        let share = |percent: f64| (percent * rows as f64 / 100.0).round_ties_even() as u64;
        match self {
            Part::All => 0..rows,
            Part::First(percent) => 0..share(percent),
            Part::Rest(percent) => share(percent)..rows,
        }
    }
}

impl Corpus {
    /// One file, or all files of text, JSON lines or Parquet in a folder and the folders in it, by name.
    pub fn at(path: &Path, column: Option<&str>) -> Result<Corpus, DataError> {
        let mut files = Vec::new();
        if path.is_dir() {
            collect(path, &mut Vec::new(), &mut files)?;
            files.sort();
        } else {
            files.push(path.to_path_buf());
        }
        Corpus::of(path, files, column)
    }

    /// These files, which must be of one kind; `path` is what the user named.
    pub fn of(path: &Path, files: Vec<PathBuf>, column: Option<&str>) -> Result<Corpus, DataError> {
        let Some(first) = files.first() else {
            return Err(DataError::NoFiles {
                path: path.to_path_buf(),
            });
        };
        let kind = Kind::of(first);
        if let Some(other) = files.iter().find(|file| Kind::of(file) != kind) {
            return Err(DataError::MixedKinds {
                path: path.to_path_buf(),
                one: first.clone(),
                other: other.clone(),
            });
        }
        let is_special = |file: &&PathBuf| {
            file.metadata()
                .is_ok_and(|known| !known.is_file() && !known.is_dir())
        };
        if let Some(special) = files.iter().find(is_special) {
            return Err(DataError::Special {
                path: special.clone(),
            });
        }
        Ok(Corpus {
            path: path.to_path_buf(),
            files,
            kind,
            column: column.map(str::to_owned),
            part: Part::All,
        })
    }

    /// Files that the others are numbered with (`train-00000-of-00002.parquet`) and that are not there: how many, of how many.
    pub fn missing_shards(&self) -> Option<(usize, usize)> {
        let shards = self.files.iter().filter_map(|file| {
            let (before, all) = file.file_stem()?.to_str()?.rsplit_once("-of-")?;
            let (name, number) = before.rsplit_once('-')?;
            number.parse::<usize>().ok()?;
            Some((
                (file.parent()?, name.to_owned()),
                all.parse::<usize>().ok()?,
            ))
        });
        let mut sets: BTreeMap<_, (usize, usize)> = BTreeMap::new();
        for (set, all) in shards {
            let (found, of) = sets.entry(set).or_default();
            *found += 1;
            *of = all.max(*of);
        }
        let incomplete = sets.into_values().filter(|(found, all)| found < all);
        incomplete
            .map(|(found, all)| (all - found, all))
            .reduce(|a, b| (a.0 + b.0, a.1 + b.1))
    }

    pub fn part(self, part: Part) -> Corpus {
        Corpus { part, ..self }
    }
}

pub(super) fn extension(path: &Path) -> String {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.unwrap_or_default().to_ascii_lowercase()
}

/// Whether a file in a folder looks like data.
pub(super) fn is_data(path: &Path) -> bool {
    matches!(
        extension(path).as_str(),
        "txt" | "text" | "raw" | "tokens" | "jsonl" | "ndjson" | "parquet"
    )
}

/// Adds the files in a folder; `above` are the folders around it, which a link in it may lead back to.
fn collect(
    folder: &Path,
    above: &mut Vec<PathBuf>,
    files: &mut Vec<PathBuf>,
) -> Result<(), DataError> {
    let cannot = |source| DataError::Read {
        path: folder.to_path_buf(),
        source,
    };
    let itself = folder.canonicalize().map_err(cannot)?;
    if above.contains(&itself) {
        return Ok(());
    }
    above.push(itself);
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect(&path, above, files)?;
        } else if is_data(&path) {
            files.push(path);
        }
    }
    above.pop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_folder_above_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("b");
        std::fs::create_dir(&inner).unwrap();
        for name in ["a.txt", "b/c.txt", "b/.hidden.txt", "b/c.png"] {
            std::fs::write(folder.path().join(name), "text").unwrap();
        }
        std::os::unix::fs::symlink("..", inner.join("up")).unwrap();
        std::os::unix::fs::symlink("b", folder.path().join("c")).unwrap();
        let corpus = Corpus::at(folder.path(), None).unwrap();
        let names = ["a.txt", "b/c.txt", "c/c.txt"];
        assert_eq!(corpus.files, names.map(|name| folder.path().join(name)));
    }
    #[test]
    fn shares_of_rows_are_rounded_as_python_does() {
        for (rows, first) in [(50, 2), (30, 2), (70, 4), (20, 1), (29, 1), (9, 0)] {
            assert_eq!(Part::First(5.0).range(rows), 0..first);
            assert_eq!(Part::Rest(5.0).range(rows), first..rows);
        }
    }

    #[test]
    fn shards_that_are_not_there_are_counted() {
        let missing = |names: &[&str]| {
            let files = names.iter().map(PathBuf::from).collect();
            Corpus::of("d".as_ref(), files, None)
                .unwrap()
                .missing_shards()
        };
        let name = |i: usize| format!("d/train-{i:05}-of-00003.parquet");
        let (a, b, c) = (name(0), name(1), name(2));
        assert_eq!(missing(&[&a, &b, &c]), None);
        assert_eq!(missing(&[&a, &c]), Some((1, 3)));
        assert_eq!(
            missing(&[&a, "d/other-00001-of-00004.parquet"]),
            Some((5, 7))
        );
        assert_eq!(
            missing(&["d/train.parquet", "d/one-of-2.parquet", "d/x-of-y.parquet"]),
            None
        );
        assert_eq!(missing(&["d/a-0-of-99999999999999999999.parquet"]), None);
    }
}
