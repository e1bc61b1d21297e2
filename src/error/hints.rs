//! What might help against an error, in a line.

use superstep_passes::compile::CompileError;
use superstep_passes::place::PlacementError;

use super::Error;
use crate::data::DataError;
use crate::frontend::FrontendError;
use crate::train::checkpoint::CheckpointError;

/// The hint for an error, if there is one.
pub(super) fn of(error: &Error) -> Option<String> {
    match error {
        Error::Failed { hint, .. } => hint.clone(),
        Error::Compile(error) => compile(error),
        Error::Write(error)
        | Error::Data(DataError::Write(error))
        | Error::Frontend(FrontendError::Write(error))
            if error.is_full() =>
        {
            Some(
                "make room and give the same command again; what was written before is whole"
                    .into(),
            )
        }
        Error::Data(DataError::Frontend(error)) | Error::Frontend(error) => frontend(error),
        Error::Data(error) => data(error),
        Error::Checkpoint(error) => checkpoint(error),
        Error::Executable { .. } => Some("compile the model again with `superstep compile`".into()),
        _ => None,
    }
}

fn compile(error: &CompileError) -> Option<String> {
    match error {
        CompileError::Placement(PlacementError::Overflow { tried, ipus, .. }) => {
            let more = if tried < ipus {
                "--layers_per_ipu over more of the machine's IPUs"
            } else {
                "a machine with more IPUs (--machine pod16)"
            };
            Some(format!(
                "try a smaller --per_device_train_batch_size or --block_size, or {more}"
            ))
        }
        CompileError::Placement(PlacementError::TooFewMicroBatches { stages, .. }) => Some(
            format!("give --gradient_accumulation_steps {stages} or more, or --pipeline false"),
        ),
        CompileError::Placement(PlacementError::UnevenReplicas { replicas, ipus, .. }) => {
            Some(uneven_replicas("--replication_factor", *replicas, *ipus))
        }
        _ => None,
    }
}

/// What helps where the IPUs of a machine cannot be shared out evenly over replicas, whose number is an option.
pub(crate) fn uneven_replicas(option: &str, replicas: u32, ipus: u32) -> String {
    format!(
        "give a {option} that divides {ipus}, or a machine with a multiple of {replicas} IPUs, as in --machine pod16,ipus=12"
    )
}

fn data(error: &DataError) -> Option<String> {
    let hint = match error {
        DataError::TooShort { .. } => "give more text or a smaller --block_size",
        DataError::Special { .. } => "write it to a file first",
        DataError::EmptyText { .. } => "give a file that has text in it",
        DataError::EmptySide { .. } => {
            "give a --validation_file or another --validation_split_percentage"
        }
        DataError::NotAnId { .. } => {
            "token files hold whole numbers; texts come as .txt, .parquet or .jsonl, an object a line"
        }
        DataError::NotUtf8 { .. } => "convert it, such as with `iconv -f ISO-8859-1 -t UTF-8`",
        DataError::TooFewSamples { .. } => {
            "give more data, or a smaller --per_device_train_batch_size or --gradient_accumulation_steps"
        }
        DataError::Column { .. } => "name another column with --text_column",
        DataError::JsonLine { .. } => "each line must be an object such as {\"text\": \"…\"}",
        DataError::Parquet { .. } => {
            "it must have a column of texts without nulls (--text_column), in pages that are not compressed or by snappy, zstd or gzip"
        }
        DataError::PageTooLarge { .. } => {
            "write it with smaller pages, its longest rows as several rows, or as JSON lines, which may be of any length"
        }
        DataError::OtherFormat { .. } => {
            "unpack or convert it; files of text, .jsonl and .parquet are read"
        }
        DataError::NoDataset { name, .. } => {
            return Some(format!(
                "give a folder with its files as --dataset_name, or download {name} into the Hugging Face cache on a machine that is connected"
            ));
        }
        DataError::BlockSize { found, .. } => {
            return Some(format!(
                "use --block_size {found}, in `superstep compile` too"
            ));
        }
        _ => return None,
    };
    Some(hint.into())
}

fn frontend(error: &FrontendError) -> Option<String> {
    let hint = match error {
        FrontendError::Safetensors { .. } => {
            "the file is cut or damaged: copy or download it again"
        }
        FrontendError::Tokenizer { .. } => {
            "take tokenizer.json, or vocab.json and merges.txt, anew from where the model came from"
        }
        FrontendError::VocabMismatch { .. } => {
            "name the tokenizer that the model was trained with as --tokenizer_name"
        }
        FrontendError::TensorShape { .. } | FrontendError::TensorsMissing { .. } => {
            "config.json and the weights must be of the same model"
        }
        _ => return None,
    };
    Some(hint.into())
}

fn checkpoint(error: &CheckpointError) -> Option<String> {
    let hint = match error {
        CheckpointError::OtherRun { .. } => {
            "go on all the same with --allow_resume_mismatch, or start anew with --overwrite_output_dir"
        }
        CheckpointError::OtherShape { .. } => {
            "start anew with --overwrite_output_dir, or choose another --output_dir"
        }
        CheckpointError::NoneFound { .. } => {
            "start without --resume_from_checkpoint, or name a checkpoint-N folder"
        }
        CheckpointError::Damaged { .. } | CheckpointError::NoCheckpoint { .. } => {
            "name another checkpoint-N folder, or `latest`, which passes over damaged ones; or start anew with --overwrite_output_dir"
        }
        CheckpointError::Frontend(error) => return frontend(error),
        CheckpointError::Read { .. } => return None,
    };
    Some(hint.into())
}
