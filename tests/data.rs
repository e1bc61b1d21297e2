//! Text data in all its forms: the same rows give the same blocks, which are those of `run_clm.py`; and everything that can be wrong.

mod program;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use program::{fixture, superstep, tiny_with_tokenizer, words};
use serde_json::json;
use superstep::data::tokenise::Counts;
use superstep::data::{Corpus, TokenBlocks, TokenCache, TokeniseWatch};
use superstep::frontend::Tokenizer;
use superstep_ir::machine::codelet_cost::table;

const BLOCK: usize = 64;
const VOCABULARY: usize = 50_257;

/// Lines of a novel, with their breaks, more than two batches of them; some are empty, two are long, one of these without a space.
fn lines() -> Vec<String> {
    let text = std::fs::read_to_string(fixture("text/austen.txt")).unwrap();
    let mut lines: Vec<String> = text.lines().take(2345).map(|l| format!("{l}\n")).collect();
    lines[1234] = "one  very long line — ".repeat(9000) + "\n";
    lines[1235] = "人生若只如初见，何事秋风悲画扇。".repeat(4000) + "\n";
    lines
}

fn write_parquet(path: &Path, rows: &[String], compression: Compression) {
    let schema = "message schema { OPTIONAL INT64 id; OPTIONAL BYTE_ARRAY text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for group in rows.chunks(700) {
        let mut row_group = writer.next_row_group().unwrap();
        let present = vec![1i16; group.len()];
        let ids: Vec<i64> = (0..group.len() as i64).collect();
        let mut column = row_group.next_column().unwrap().unwrap();
        let typed = column.typed::<parquet::data_type::Int64Type>();
        typed.write_batch(&ids, Some(&present), None).unwrap();
        column.close().unwrap();
        let texts: Vec<ByteArray> = group.iter().map(|row| row.as_str().into()).collect();
        let mut column = row_group.next_column().unwrap().unwrap();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&texts, Some(&present), None).unwrap();
        column.close().unwrap();
        row_group.close().unwrap();
    }
    writer.close().unwrap();
}

fn write_jsonl(path: &Path, rows: &[String]) {
    let lines = rows
        .iter()
        .map(|row| json!({"n": 1, "text": row}).to_string() + "\n");
    std::fs::write(path, lines.collect::<String>()).unwrap();
}

/// What was told while tokenising.
#[derive(Default)]
struct Told {
    counts: Counts,
    kept: bool,
    notes: Vec<String>,
}

impl TokeniseWatch for Told {
    fn progress(&mut self, _: &Counts) {}

    fn done(&mut self, counts: &Counts, kept: bool) {
        (self.counts, self.kept) = (*counts, kept);
    }

    fn note(&mut self, text: String) {
        self.notes.push(text);
    }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&fixture("gpt2-tokenizer")).unwrap()
}

fn blocks(cache: &Path, corpus: &Corpus, told: &mut Told) -> TokenBlocks {
    let cache = TokenCache {
        directory: cache.to_path_buf(),
        overwrite: false,
    };
    cache
        .blocks(corpus, &tokenizer(), BLOCK, VOCABULARY, told)
        .unwrap()
}

fn ids(blocks: &TokenBlocks) -> Vec<i32> {
    let all: Vec<u32> = (0..blocks.len() as u32).collect();
    blocks.gather(&all).unwrap()
}

/// `group_texts` of `run_clm.py`, word for word: batches of 1,000 rows, each cut into blocks, its remainder dropped.
fn grouped(rows: &[String]) -> Vec<i32> {
    let tokenizer = tokenizer();
    let mut all = Vec::new();
    for batch in rows.chunks(1000) {
        let tokens: Vec<u32> = batch
            .iter()
            .flat_map(|row| tokenizer.encode(row).unwrap())
            .collect();
        let kept = tokens.len() / BLOCK * BLOCK;
        all.extend(tokens[..kept].iter().map(|&id| id as i32));
    }
    all
}

#[test]
fn every_form_of_the_same_rows_gives_the_blocks_of_run_clm() {
    let folder = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let dir = folder.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    };
    let rows = lines();
    let wanted = grouped(&rows);
    let text = dir("text").join("a.txt");
    std::fs::write(&text, rows.concat()).unwrap();
    let jsonl = dir("jsonl").join("a.jsonl");
    write_jsonl(&jsonl, &rows);
    let mut sources: Vec<PathBuf> = vec![text, jsonl];
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::GZIP(Default::default()),
    ];
    for (i, codec) in codecs.into_iter().enumerate() {
        // Two shards: batches run on from one to the next.
        let shards = dir(&format!("parquet-{i}"));
        write_parquet(
            &shards.join("train-00000-of-00002.parquet"),
            &rows[..1500],
            codec,
        );
        write_parquet(
            &shards.join("train-00001-of-00002.parquet"),
            &rows[1500..],
            codec,
        );
        sources.push(shards);
    }
    for source in sources {
        let corpus = Corpus::at(&source, None).unwrap();
        let mut told = Told::default();
        let found = ids(&blocks(&folder.path().join("cache"), &corpus, &mut told));
        assert!(found == wanted, "{}", source.display());
        assert_eq!(told.counts.rows, 2345);
        let counted = told.counts.blocks * BLOCK as u64 + told.counts.dropped;
        assert_eq!(counted, told.counts.tokens);
        assert!(!told.kept && told.notes.is_empty());
    }
}

/// The most memory that `superstep train` took up to the end of a run over a file, in MiB, and what it said.
fn peak_of(model: &Path, file: &Path, cache: &Path) -> (u64, String) {
    let line = "train --model_name_or_path {} --train_file {} --cache_dir {} --max_steps 1 --block_size 32 --machine ipu --threads 2";
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_superstep"))
        .args(words(line, &[model, file, cache]))
        .env("RAYON_NUM_THREADS", "2")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let about = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let about = about.unwrap_or_default();
        let line = about.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        peak = kib.map_or(peak, |kib| kib.parse().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let mut err = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut err).unwrap();
    assert!(status.success() && peak > 0, "{err}");
    (peak >> 10, err)
}

#[cfg(target_os = "linux")]
#[test]
fn a_row_of_any_length_takes_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_with_tokenizer(folder.path());
    let file = |name: &str, content: String| program::file(folder.path(), name, content.as_bytes());
    let novel = std::fs::read_to_string(fixture("text/austen.txt")).unwrap();
    let words = novel.replace('\n', " ").repeat(16);
    let document = json!({ "text": words }).to_string();
    let beside = json!({ "text": novel, "scan": "0".repeat(100 << 20) }).to_string();
    for (path, is_cut) in [
        (file("line.txt", words), false),
        (file("document.jsonl", document), false),
        // As a whole in memory it would take twice its length.
        (file("beside.jsonl", beside), false),
        // Nowhere to cut: as one piece it would take 1.5 GB.
        (file("letters.txt", "acgt".repeat(2 << 20)), true),
    ] {
        let (peak, err) = peak_of(&model, &path, &folder.path().join("cache"));
        // Training the tiny model takes half of it.
        assert!(peak < 256, "{}: {peak} MiB", path.display());
        assert_eq!(err.contains("rows were cut"), is_cut, "{err}");
    }
}

#[test]
fn tokens_are_kept_by_content_and_made_anew_when_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let (a, b) = (folder.path().join("a.txt"), folder.path().join("b.txt"));
    std::fs::write(&a, lines()[..300].concat()).unwrap();
    std::fs::copy(&a, &b).unwrap();
    let run = |path: &Path| {
        let mut told = Told::default();
        let corpus = Corpus::at(path, None).unwrap();
        let found = ids(&blocks(&cache, &corpus, &mut told));
        (found, told)
    };
    let (first, told) = run(&a);
    assert!(!told.kept);
    // The same content under another name.
    let (second, told) = run(&b);
    assert!(told.kept && first == second);
    let kept = std::fs::read_dir(&cache)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&kept).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    let (third, told) = run(&a);
    assert!(!told.kept && third == first && told.notes[0].contains("damaged"));
    std::fs::write(&b, lines()[..301].concat()).unwrap();
    assert!(!run(&b).1.kept);
}

#[test]
fn data_sets_train_and_evaluate_by_split() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_with_tokenizer(folder.path());
    let set = folder.path().join("set/raw-v1");
    std::fs::create_dir_all(&set).unwrap();
    let rows = lines();
    write_parquet(
        &set.join("train-00000-of-00001.parquet"),
        &rows[..200],
        Compression::SNAPPY,
    );
    write_parquet(
        &set.join("validation-00000-of-00001.parquet"),
        &rows[200..260],
        Compression::SNAPPY,
    );
    let out = folder.path().join("out");
    let line = "train --model_name_or_path {} --dataset_name {} --dataset_config_name raw-v1 --do_train --do_eval --block_size 32 \
                --max_steps 2 --max_eval_samples 3 --machine ipu --output_dir {}";
    let run = superstep(&words(line, &[&model, set.parent().unwrap(), &out])).ok();
    assert!(run.out.contains("training    200 rows"), "{}", run.out);
    assert!(run.out.contains("validation  60 rows"), "{}", run.out);
    assert!(run.out.contains("over 3 samples"), "{}", run.out);
    // Without a validation split, the first rows are held out.
    std::fs::remove_file(set.join("validation-00000-of-00001.parquet")).unwrap();
    let line = format!("{line} --validation_split_percentage 10 --overwrite_output_dir");
    let run = superstep(&words(&line, &[&model, set.parent().unwrap(), &out])).ok();
    assert!(run.out.contains("training    180 rows"), "{}", run.out);
    assert!(run.out.contains("validation  20 rows"), "{}", run.out);
    assert!(run.err.contains("first 10 %"), "{}", run.err);
}

/// The file with a first page that says so: what it takes in memory shows only in its header. The column `id` comes before the texts, so
/// these lie where the file says their first page is.
fn with_page_of_900_mib(bytes: &[u8]) -> Vec<u8> {
    let reader = SerializedFileReader::new(bytes::Bytes::copy_from_slice(bytes)).unwrap();
    let column = reader.metadata().row_group(0).column(1).clone();
    let start = column.dictionary_page_offset();
    let start = start.unwrap_or(column.data_page_offset()) as usize;
    // Kind of page, then its size: two fields of the header, each behind its mark.
    assert_eq!((bytes[start], bytes[start + 2]), (0x15, 0x15));
    let size = bytes[start + 3..]
        .iter()
        .position(|byte| byte & 0x80 == 0)
        .unwrap()
        + 1;
    let (header, rest) = bytes.split_at(start + 3);
    [header, &[0x80, 0x80, 0x80, 0x84, 0x07], &rest[size..]].concat()
}

#[test]
fn what_is_wrong_with_data_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_with_tokenizer(folder.path());
    let file = |name: &str, content: &[u8]| program::file(folder.path(), name, content);
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let mixed = folder.path().join("mixed");
    std::fs::create_dir(&mixed).unwrap();
    std::fs::write(mixed.join("a.txt"), "a").unwrap();
    std::fs::write(mixed.join("a.jsonl"), "{}").unwrap();
    let sound = folder.path().join("sound.parquet");
    write_parquet(&sound, &lines()[..50], Compression::SNAPPY);
    let bytes = std::fs::read(&sound).unwrap();
    let cases: Vec<(PathBuf, &str, &str)> = vec![
        (file("nothing.txt", b""), "", "holds no text"),
        (
            file("short.txt", b"too short"),
            "",
            "not enough for one block of 40",
        ),
        (file("bad.txt", b"fine\n\xff\xfe\n"), "", "offset 5"),
        (
            file("bad.jsonl", b"{\"text\": \"a\"}\n{\"text\": \n"),
            "",
            "bad.jsonl, line 2",
        ),
        (
            file("list.jsonl", b"[1, 2]\n"),
            "",
            "line 1: it is no JSON object",
        ),
        (
            file("other.jsonl", b"{\"body\": \"a\"}\n"),
            "",
            "no column `text`; it has body",
        ),
        (
            file("number.jsonl", b"{\"text\": 7}\n"),
            "",
            "`text` is no text",
        ),
        (
            sound.clone(),
            "--text_column words",
            "no column `words`; it has id, text",
        ),
        (
            sound.clone(),
            "--text_column id",
            "`id` is no column of texts",
        ),
        (
            file("cut.parquet", &bytes[..bytes.len() / 2]),
            "",
            "no usable Parquet file",
        ),
        (file("no.parquet", b"no"), "", "no usable Parquet file"),
        (
            file("page.parquet", &with_page_of_900_mib(&bytes)),
            "",
            "is in a page that takes 900 MiB of memory",
        ),
        (file("a.gz.txt", b"\x1f\x8b\x08"), "", "compressed by gzip"),
        (
            file("a.zst.jsonl", b"\x28\xb5\x2f\xfd"),
            "",
            "compressed by zstd",
        ),
        (file("wide.txt", b"\xff\xfea\0"), "", "not text but UTF-16"),
        (
            file("sound.txt", &b"word ".repeat(99)),
            "--per_device_train_batch_size 3 --gradient_accumulation_steps 2 --device_iterations 4",
            "needs 24: 3 per micro-batch × 2 accumulation steps × 4 device iterations",
        ),
        (
            file(
                "later.txt",
                &[b"word ".repeat(9000), b"\xc3\n".to_vec()].concat(),
            ),
            "",
            "offset 45000",
        ),
        (
            file("line.txt", &b"word ".repeat(99)),
            "--do_eval --validation_split_percentage 10",
            "too few rows to split: one side has none",
        ),
        (empty, "", "has no files of text"),
        (mixed, "", "files of different kinds"),
        (folder.path().join("absent.txt"), "", "absent.txt"),
    ];
    for (path, more, what) in cases {
        let line = format!(
            "train --model_name_or_path {{}} --train_file {{}} --block_size 40 --max_steps 1 --machine ipu {more}"
        );
        superstep(&words(&line, &[&model, &path])).fails(1, what);
    }
    // Damage anywhere in a Parquet file is an error or goes unnoticed, but never a crash.
    for at in (0..bytes.len()).step_by(bytes.len() / 40) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        let corpus = Corpus::at(&file("damaged.parquet", &damaged), None).unwrap();
        let cache = TokenCache {
            directory: folder.path().join("cache"),
            overwrite: true,
        };
        let _ = cache.blocks(&corpus, &tokenizer(), 8, VOCABULARY, &mut Told::default());
    }
    let line = "train --model_name_or_path {} --dataset_name no/where --block_size 40";
    superstep(&words(line, &[&model])).fails(1, "datasets--no--where");
}

/// Of the tokens of a sample, the greatest share in `n` consecutive entries of the vocabulary, on average over the samples of a text.
fn share_of_consecutive(ids: &[u32], sample: usize, n: u64) -> f64 {
    let shares = ids.chunks_exact(sample).map(|tokens| {
        let mut sorted = tokens.to_vec();
        sorted.sort_unstable();
        let below = |end: u64| sorted.partition_point(|&id| u64::from(id) < end);
        let within = |(i, &id): (usize, &u32)| below(u64::from(id) + n) - i;
        let most = sorted.iter().enumerate().map(within).max();
        most.unwrap_or(0) as f64 / sample as f64
    });
    shares.sum::<f64>() / (ids.len() / sample) as f64
}

/// What the cycles of tables assume of text is what this text is like.
#[test]
fn shares_of_the_vocabulary_are_those_of_the_novel() {
    let tokenizer = Tokenizer::load(&fixture("gpt2-tokenizer")).unwrap();
    let text = std::fs::read_to_string(fixture("text/austen.txt")).unwrap();
    let ids = tokenizer.encode(&text).unwrap();
    for (n, share) in table::CONSECUTIVE {
        let found = share_of_consecutive(&ids, 1024, n);
        assert!(
            (found - share).abs() < 0.001,
            "{n} entries: {found}, not {share}"
        );
    }
    for (first, share) in table::FROM {
        let behind = ids.iter().filter(|&&id| u64::from(id) >= first).count();
        let found = behind as f64 / ids.len() as f64;
        assert!(
            (found - share).abs() < 0.001,
            "from {first}: {found}, not {share}"
        );
    }
}
