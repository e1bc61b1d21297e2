//! The samples of a run: those it trains on, and those it is judged by.

use super::super::data_options::DataFile;
use super::super::model_options::Model;
use super::super::output::note;
use super::Options;
use crate::data::TokenBlocks;
use crate::data::corpus::Part;
use crate::data::dataset::Split;
use crate::error::Error;

/// Makes samples of a length from a file, for a purpose.
type Load<'a> = dyn Fn(&DataFile, Option<usize>, &'static str) -> Result<TokenBlocks, Error> + 'a;

impl Options {
    /// Training samples and, if they are asked for, held-out ones. Where only these are used, the others may be the same.
    pub(super) fn samples(
        &self,
        model: &Model,
        block_size: Option<usize>,
    ) -> Result<(TokenBlocks, Option<TokenBlocks>), Error> {
        let data = &self.data;
        let held_out = match &data.validation_file {
            _ if !self.output.do_eval => None,
            Some(path) => Some(data.text.file(path)?),
            None => match &data.text.dataset_name {
                Some(name) => data.text.dataset(name, Split::Validation)?,
                None => None,
            },
        };
        let load = |file: &DataFile, block_size, purpose| {
            file.load(model, block_size, &data.text, purpose)
        };
        let is_given = data.train_file.is_some() || data.train_tokens.is_some();
        if let (Some(held_out), false, false) = (&held_out, self.output.do_train, is_given) {
            let validation = load(held_out, block_size, "validation")?;
            let validation = limited(validation, data.max_eval_samples);
            return Ok((validation.clone(), Some(validation)));
        }
        let train = self.training_data()?;
        let (blocks, validation) = if !self.output.do_eval {
            (load(&train, block_size, "training")?, None)
        } else if let Some(held_out) = held_out {
            let blocks = load(&train, block_size, "training")?;
            let length = Some(blocks.block_size());
            let validation = load(&held_out, length, "validation")?;
            (blocks, Some(validation))
        } else {
            let (validation, blocks) = self.split(&train, block_size, &load)?;
            (blocks, Some(validation))
        };
        Ok((
            limited(blocks, data.max_train_samples),
            validation.map(|validation| limited(validation, data.max_eval_samples)),
        ))
    }

    /// With --dataloader_drop_last, as many samples as fill calls of an evaluation: batches of all replicas and device iterations.
    pub(super) fn whole_batches(
        &self,
        validation: TokenBlocks,
        batch: usize,
    ) -> Result<TokenBlocks, Error> {
        if !self.output.drop_last {
            return Ok(validation);
        }
        let whole = validation.len() / batch * batch;
        if whole == 0 {
            return Err(Error::failed(format!(
                "{} samples to evaluate on do not fill a batch of {batch}, and --dataloader_drop_last leaves out the rest",
                validation.len()
            )));
        }
        Ok(validation.at_most(whole))
    }

    fn training_data(&self) -> Result<DataFile, Error> {
        let data = &self.data;
        if let Some(tokens) = &data.train_tokens {
            return Ok(DataFile::Tokens(tokens.clone()));
        }
        if let Some(path) = &data.train_file {
            return data.text.file(path);
        }
        let Some(name) = &data.text.dataset_name else {
            return Err(Error::usage(
                "no data: give --train_file FILE, --train_tokens TOKENS or --dataset_name NAME",
            ));
        };
        data.text.dataset(name, Split::Train)?.ok_or_else(|| {
            Error::failed(format!("the data set `{name}` has no files of a train split"))
                .with_hint("their names have `train` in them, such as train.txt or train-00000-of-00001.parquet")
        })
    }

    /// Held-out samples out of the training data: the first rows of a text, the first samples of a token file.
    fn split(
        &self,
        train: &DataFile,
        block_size: Option<usize>,
        load: &Load,
    ) -> Result<(TokenBlocks, TokenBlocks), Error> {
        let percent = self.data.validation_split_percentage;
        note(format_args!(
            "no --validation_file: evaluating on the first {percent} % of the training data, which are not trained on"
        ));
        match train {
            DataFile::Text(corpus) => {
                let part = |part| DataFile::Text(corpus.clone().part(part));
                let validation = load(&part(Part::First(percent)), block_size, "validation")?;
                let length = Some(validation.block_size());
                Ok((
                    validation,
                    load(&part(Part::Rest(percent)), length, "training")?,
                ))
            }
            DataFile::Tokens(path) => {
                let blocks = load(train, block_size, "training")?;
                blocks.split(percent).ok_or_else(|| {
                    let path = path.display();
                    Error::failed(format!(
                        "{path} has too few samples to split {percent} % off"
                    ))
                    .with_hint("give a --validation_file or another --validation_split_percentage")
                })
            }
        }
    }
}

fn limited(blocks: TokenBlocks, limit: Option<usize>) -> TokenBlocks {
    match limit {
        Some(limit) => blocks.at_most(limit),
        None => blocks,
    }
}
